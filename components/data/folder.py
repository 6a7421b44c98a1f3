"""The `folder` source: `<root>/<class>/<image>`, or `<root>/{train,test}/<class>/<image>` with its own test split."""

import os
import stat
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from components.data.records import Record, Refused, Rule, Source, refuse, relative
from components.params import Data, require

OWN_SPLITS = ("train", "test")
BYTES_PER_PIXEL = 8
"""Four channels of 16 bits, uncompressed: no honest file is larger, but for `METADATA`."""
METADATA = 1 << 20


def open_folder(data: Data) -> Source:
    """Every file below the root becomes a record, also those that are no image: nothing is passed over in silence.

    A root that holds both `train` and `test` brings its own test split. Raises ValueError without class folders.
    """
    root = Path(data.path or "")
    require(root.is_dir(), f"data.path is {data.path!r}, which is no folder; give the one that holds the class folders")
    own = set(OWN_SPLITS) <= {entry.name for entry in entries(root) if entry.is_dir()}
    holders = {root / split: split for split in OWN_SPLITS} if own else {root: None}
    classes = tuple(relative(entry.name) for entry in entries(next(iter(holders))) if holds_class(entry))
    require(len(classes) > 0, f"data.path {data.path!r} holds no class folders; put images into <class>/<image>")
    found = list(walk(root, holders, most_bytes(data)))
    return Source(name=data.source, classes=classes, count=len(found), records=iter(found))


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What the folder holds, by name; raises ValueError when it may not be listed."""
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"folder {str(folder)!r} cannot be listed ({error.strerror}); make it readable") from None


def holds_class(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def walk(root: Path, holders: Mapping[Path, str | None], limit: int) -> Iterator[Record]:
    """The images of every class folder in the `holders` (folder -> own split), and all that lies elsewhere."""
    for holder, split in holders.items():
        for entry in entries(holder):
            if holds_class(entry):
                yield from walk_class(root, Path(entry.path), split, limit)
            else:
                yield from turn_away(root, Path(entry.path), None, "it lies outside the class folders")
    for entry in entries(root) if root not in holders else ():
        if Path(entry.path) not in holders:
            yield from turn_away(root, Path(entry.path), None, "it lies in neither train nor test")


def walk_class(root: Path, folder: Path, split: str | None, limit: int) -> Iterator[Record]:
    """The images of one class folder."""
    label = relative(folder.name)
    for entry in entries(folder):
        path = Path(entry.path)
        if holds_class(entry) or entry.name.startswith("."):
            yield from turn_away(root, path, label, "it lies in a folder within a class folder")
        else:
            read = partial(read_file, path, limit)
            yield Record(path=relative(str(path.relative_to(root))), label=label, split=split, read=read)


def turn_away(root: Path, path: Path, label: str | None, reason: str) -> Iterator[Record]:
    """Refusals for a file, or for every file of a folder; a hidden folder and a link to a folder are one each."""
    if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
        for entry in entries(path):
            yield from turn_away(root, Path(entry.path), label, reason)
        return
    hidden = path.name.startswith(".")
    why = (Rule.HIDDEN, "its name starts with a dot") if hidden else (Rule.MISPLACED, reason)
    yield Record(path=relative(str(path.relative_to(root))), label=label, read=partial(refuse, *why))


def most_bytes(data: Data) -> int:
    """The size beyond which no file is read."""
    return data.max_pixels * BYTES_PER_PIXEL + METADATA


def read_file(path: Path, limit: int) -> bytes:
    """The file's bytes; raises `Refused` for what is no file, cannot be read, or is larger than `limit` bytes."""
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
