"""Ingest: source -> validated `data/raw` -> a DVC data version. `python -m flows.ingest`.

The new folder is written beside the old one and takes its place whole; whatever stops an ingest before that leaves
the old data as they were. An unchanged source gives the same bytes, hence no new data version.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("ingest")  # before the libraries: help waits for none of them

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from components.data.intake import take_in
from components.data.sources import open_source
from components.data.split import assign, count_classes, require_batch, require_every_class
from components.data.validation import Report
from components.params import Params
from components.progress import Progress, unwatched
from flows import paths, versions
from flows.settings import load_params
from flows.terminal import watched

LOCK = Path(".dvc/tmp/ingest.lock")


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """How many images there are now and how many were turned away; data/raw/validation.json names each."""

    classes: int
    images: int
    refused: int
    quarantined: int
    duplicates: int

    def sentence(self) -> str:
        return (
            f"{self.images} images of {self.classes} classes in {paths.RAW}; {self.refused} refused, "
            f"{self.quarantined} quarantined, {self.duplicates} duplicates (each named in {paths.VALIDATION})"
        )


def ingest(params: Params, progress: Progress = unwatched) -> IngestReport:
    """Read the source anew and make it the current data version; pushed, when a DVC remote is configured.

    Raises ValueError, with nothing changed, when the source cannot be used or another ingest is at it; VersionsError
    when DVC cannot take or push what is in place then.
    """
    source = open_source(params.data)
    with alone():
        with replacing_folder(paths.RAW) as folder:
            report = take_in(source, folder, params.data, progress)
            require_splits(report, params)
        versions.add_data(paths.RAW)
        if versions.has_remote():
            versions.push_data(paths.RAW_DVC)
    return IngestReport(
        classes=len(report.classes),
        images=len(report.kept),
        refused=len(report.refused),
        quarantined=len(report.quarantined),
        duplicates=len(report.duplicates),
    )


def require_splits(report: Report, params: Params) -> None:
    """Raise ValueError if no model could be trained on these images: better now than an hour into the line."""
    own = [entry.split for entry in report.kept]
    assigned = assign([entry.content for entry in report.kept], own, params.data.val, params.data.test)
    labels = [report.classes.index(entry.label) for entry in report.kept]
    counts = count_classes(assigned, labels, report.classes)
    require_every_class(counts, own_test="test" in own)
    require_batch(counts, params.train.recipe.batch_size)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends well, and vanishes when it does not.

    A kill leaves at most `.<name>.new` and `.<name>.old` beside it, which the next call clears away. One process at a
    time.
    """
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    recover(folder, old)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        swap(new, folder, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One ingest at a time in one checkout."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(LOCK).acquire(timeout=0)
    except Timeout:
        raise ValueError("another ingest is running in this folder; wait for it, or stop it there") from None
    with held:
        yield


def swap(new: Path, folder: Path, old: Path) -> None:
    """Put `new` in the place of `folder`: two renames, between which a kill leaves the data whole in `old`."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        recover(folder, old)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path, old: Path) -> None:
    """Undo or finish a swap that was cut off."""
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    chosen = commands.parse("ingest", arguments)
    try:
        with watched() as tracker:
            report = ingest(load_params(chosen.params), tracker.progress)
    except (ValueError, OSError) as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; the data are whole, old or new: the same command again finishes", file=sys.stderr)
        return 130
    print(report.sentence())
    return 0


if __name__ == "__main__":
    commands.run(main)
