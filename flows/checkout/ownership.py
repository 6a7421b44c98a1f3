"""Nothing that the line did not write is deleted, moved or overwritten: what lies in its places is looked at first.

Its own are what DVC's cache holds (so nothing is lost), what an ingest or a stage left behind that was interrupted, and
what a stage wrote that was started by hand: `begin` and `finish` keep account of it, below DVC's temporary folder.
"""

from collections.abc import Mapping
from pathlib import Path

from components.data.raw import is_own
from flows.checkout import paths, pipeline
from flows.checkout.files import read_json, write_json

LEDGER = Path(".dvc/tmp/written")
"""<stage>.json: path -> md5 of what the stage last wrote here; null while it runs, and after it was interrupted."""
ELSEWHERE = "to keep large data on another disk, make it a folder and move DVC's cache there: `dvc cache dir PATH`"


def require_no_link(place: Path) -> None:
    """Raise ValueError where the place, or a folder of the checkout above it, is a symbolic link: DVC follows none."""
    for one in (*reversed(place.parents), place):
        if one.is_symlink():
            raise ValueError(f"{one} is a link to {one.readlink()}, and DVC keeps no data behind a link; {ELSEWHERE}")
        if one.exists() and not one.is_dir() and one != place:
            raise ValueError(f"{one} is no folder, and {place} has to lie in it; move it away")


def require_own_raw() -> None:
    """Raise ValueError where data/raw holds what neither an ingest nor DVC wrote."""
    require_no_link(paths.RAW)
    if paths.RAW.exists() and not paths.RAW.is_dir():
        raise ValueError(f"{paths.RAW} is no folder; move it away: an ingest writes its images there")
    known = paths.RAW_DVC.exists()
    foreign = [file for file in sorted(paths.RAW.glob("*")) if not is_own(file, known=known)]
    for left in paths.INTERRUPTED:  # by an ingest that was cut off
        foreign += [file for file in sorted(left.glob("*")) if not is_own(file, known=True)]
    if foreign:
        raise ValueError(
            f"{paths.RAW} holds {named(foreign)}, which no ingest wrote, and an ingest would replace the folder; move "
            f"it to another folder, outside {paths.RAW} (images to be read: give that folder as data.path)"
        )


def named(files: list[Path]) -> str:
    """The first one, and how many more."""
    return str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def require_apart(source: str | None) -> None:
    """Raise ValueError where the source lies in a folder that the line writes, or around one."""
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
    """Raise ValueError where one of these stages, or any, would overwrite what is neither DVC's nor a stage's."""
    for name, unsaved in pipeline.unsaved_outputs(*names).items():
        if lost := [path for path, md5 in unsaved if not is_accounted(name, path, md5)]:
            raise ValueError(
                f"{named(lost)} lies where stage {name} writes, is not in DVC's cache, and would be deleted; move it "
                "to another folder"
            )


def is_accounted(name: str, path: Path, md5: str) -> bool:
    """Whether the stage itself left the file: by its md5, or, where it was interrupted, whatever lies there."""
    place = LEDGER / f"{name}.json"
    if not place.exists():
        return False
    written: Mapping[str, str] | None = read_json(place)
    return written is None or written.get(path.as_posix()) == md5


def begin(name: str) -> None:
    """A stage is about to write."""
    write_json(LEDGER / f"{name}.json", None)


def finish(name: str) -> None:
    """It has written all."""
    written = {path.as_posix(): md5 for path, md5 in pipeline.unsaved_outputs(name)[name]}
    write_json(LEDGER / f"{name}.json", written)
