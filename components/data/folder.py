"""The `folder` source: `<root>/<class>/<image>`, or `<root>/{train,val,test}/<class>/<image>` with its own test split.

The module components.data.layout decides which folder is what.
"""

import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from components.data.layout import Layout, entries, exclusion_of, holds_images, read_layout, show
from components.data.records import Record, Refused, Rule, Source, refuse, relative
from components.settings.data import Data
from components.settings.require import require

BYTES_PER_PIXEL = 8
"""Bytes of four uncompressed channels of 16 bits: with `METADATA`, no honest file is larger."""
METADATA = 1 << 20
"""Bytes that a file may have beside its pixels."""


def open_folder(data: Data) -> Source:
    """Open the source. Every file below the root becomes a record, even one that is no image, so that none is ignored.

    A root that holds both `train` and `test`, under these or similar names, has its own test split; its own `val`
    counts as train, because the line draws a val split itself. Raises ValueError if there are no class folders.
    """
    root = Path(data.path or "")
    require(root.is_dir(), f"data.path is {data.path!r}, which is no folder; give the one that holds the class folders")
    layout = read_layout(root)
    learnt = [holder for holder, split in layout.holders.items() if split != "test"]
    classes = {relative(entry.name) for holder in learnt for entry in entries(holder) if holds_images(entry)}
    found = list(walk(root, layout, most_bytes(data)))
    return Source(
        name=data.source,
        classes=tuple(sorted(classes)),
        count=len(found),
        records=iter(found),
        notes=layout.notes,
    )


def walk(root: Path, layout: Layout, limit: int) -> Iterator[Record]:
    """Yield a record for every file: those of class folders, and refusals for all others."""
    for holder, split in layout.holders.items():
        for entry in entries(holder):
            path = Path(entry.path)
            if holds_images(entry):
                yield from walk_class(root, path, split, limit)
            elif entry.is_dir() and exclusion_of(entry.name) is None:
                refusal = partial(refuse, Rule.NO_IMAGE, "the folder holds no image, so it is no class")
                yield Record(path=show(root, path), label=None, read=refusal)
            else:
                yield from turn_away(root, path, None, "it lies outside the class folders")
    for folder in layout.around:
        for entry in entries(folder):
            path = Path(entry.path)
            if path not in layout.holders and path not in layout.around:
                names = ", ".join(show(root, holder) for holder in layout.holders)
                yield from turn_away(root, path, None, f"it lies outside {names}, where the class folders are")


def walk_class(root: Path, folder: Path, split: str | None, limit: int) -> Iterator[Record]:
    """Yield a record for every file of one class folder."""
    label = relative(folder.name)
    for entry in entries(folder):
        path = Path(entry.path)
        if entry.is_dir() or exclusion_of(entry.name) is not None:
            yield from turn_away(root, path, label, f"it lies in a folder within the class folder {label!r}")
        else:
            yield Record(path=show(root, path), label=label, split=split, read=partial(read_file, path, limit))


def turn_away(root: Path, path: Path, label: str | None, reason: str) -> Iterator[Record]:
    """Yield refusals for a file, or for every file of a folder.

    A link to a folder, and a folder that is excluded by its name, get one refusal as a whole.
    """
    why = exclusion_of(path.name)
    if why is None and path.is_dir() and not path.is_symlink():
        for entry in entries(path):
            yield from turn_away(root, Path(entry.path), label, reason)
        return
    refusal = partial(refuse, *(why or (Rule.MISPLACED, reason)))
    yield Record(path=show(root, path), label=label, read=refusal)


def most_bytes(data: Data) -> int:
    """Return the size in bytes beyond which no file is read."""
    return data.max_pixels * BYTES_PER_PIXEL + METADATA


def read_file(path: Path, limit: int) -> bytes:
    """Read the file's bytes; raises `Refused` if it is no file, cannot be read, or is larger than `limit` bytes."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
            raise Refused(Rule.UNREADABLE, "it is no regular file")
        if status.st_size > limit:
            reason = f"a file of {status.st_size} bytes; for data.max_pixels at most {limit} are read"
            raise Refused(Rule.TOO_LARGE, reason)
        return path.read_bytes()
    except OSError as error:
        raise Refused(Rule.UNREADABLE, error.strerror or type(error).__name__) from None
