"""Check, before anything is written, that only the line's own files would be deleted, moved or overwritten.

The line's own files are those in DVC's cache (they cannot be lost), those that an interrupted ingest or stage left
behind, and those that a stage wrote when it was started by hand: `begin` and `finish` record these in LEDGER.
"""

from collections.abc import Mapping
from pathlib import Path

from components.data.raw import is_own
from flows.checkout import paths, pipeline
from flows.checkout.files import read_json, write_json

LEDGER = Path(".dvc/tmp/written")
"""Holds <stage>.json: path -> md5 of what the stage last wrote, or null while it runs or after an interruption."""
ELSEWHERE = "to keep large data on another disk, make it a folder and move DVC's cache there: `dvc cache dir PATH`"


def require_no_link(place: Path) -> None:
    """Raise ValueError if the place or a folder of the checkout above it is a symbolic link: DVC follows none."""
    for one in (*reversed(place.parents), place):
        if one.is_symlink():
            raise ValueError(f"{one} is a link to {one.readlink()}, and DVC keeps no data behind a link; {ELSEWHERE}")
        if one.exists() and not one.is_dir() and one != place:
            raise ValueError(f"{one} is no folder, and {place} has to lie in it; move it away")


def require_own_raw() -> None:
    """Raise ValueError if data/raw holds a file that neither an ingest nor DVC wrote."""
    require_no_link(paths.RAW)
    if paths.RAW.exists() and not paths.RAW.is_dir():
        raise ValueError(f"{paths.RAW} is no folder; move it away: an ingest writes its images there")
    known = paths.RAW_DVC.exists()
    foreign = [file for file in sorted(paths.RAW.glob("*")) if not is_own(file, known=known)]
    for left in paths.INTERRUPTED:  # by an ingest that was cut off
        foreign += [file for file in sorted(left.glob("*")) if not is_own(file, known=True)]
    if foreign:
        raise ValueError(
            f"{paths.RAW} holds {first_of(foreign)}, which no ingest wrote, and an ingest would replace the folder; "
            f"move it to another folder, outside {paths.RAW} (images to be read: give that folder as data.path)"
        )


def first_of(files: list[Path]) -> str:
    """Return the first file's name and how many more there are."""
    return str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def require_apart(source: str | None) -> None:
    """Raise ValueError if the source lies inside a folder that the line writes to, or contains one."""
    if source is None:
        return
    given = Path(source).resolve()
    for place in (paths.RAW, paths.PREPARED, paths.RESULTS):
        own = place.resolve()
        if given == own or own in given.parents:
            raise ValueError(
                f"data.path is {source!r}, inside {place}, which the line writes and empties; move the images to "
                "another folder, and give that one"
            )
        if given in own.parents and given.is_dir():
            raise ValueError(
                f"data.path is {source!r}, which holds {place}, where the line writes; put the images into a folder "
                "of their own, and give that one"
            )


def require_own_outputs(*names: str) -> None:
    """Raise ValueError if one of the stages (any stage if none is named) would overwrite a person's files."""
    for name, unsaved in pipeline.unsaved_outputs(*names).items():
        if lost := [path for path, md5 in unsaved if not is_accounted(name, path, md5)]:
            raise ValueError(
                f"{first_of(lost)} lies where stage {name} writes, is not in DVC's cache, and would be deleted; "
                "move it to another folder"
            )


def is_accounted(name: str, path: Path, md5: str) -> bool:
    """Whether the stage wrote the file: its md5 is in the ledger, or the stage was interrupted (then any file is)."""
    place = LEDGER / f"{name}.json"
    if not place.exists():
        return False
    written: Mapping[str, str] | None = read_json(place)
    return written is None or written.get(path.as_posix()) == md5


def begin(name: str) -> None:
    """Record that the stage is about to write its outputs."""
    write_json(LEDGER / f"{name}.json", None)


def finish(name: str) -> None:
    """Record the md5 of everything that the stage has written."""
    written = {path.as_posix(): md5 for path, md5 in pipeline.unsaved_outputs(name)[name]}
    write_json(LEDGER / f"{name}.json", written)
