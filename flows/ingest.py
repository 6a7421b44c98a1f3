"""Ingest the source: validate it into `data/raw`, assign splits in `data/split.csv`, and make a DVC data version.

The new folder is written beside the old one and then replaces it at once; an ingest that is interrupted before that
leaves the old images as they were. The record of the splits fits both, because it keeps images that have left. An
unchanged source gives the same bytes, and so no new data version.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("ingest")  # before the slow imports, so that --help answers at once

import contextlib
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.data.batch import require_batch
from components.data.intake import take_in
from components.data.sources import open_source
from components.data.split import (
    Assignment,
    AssignmentResult,
    LabelledImage,
    Shares,
    assign,
    count_classes,
    parse_assignment,
    read_assignment,
    require_every_class,
    write_assignment,
)
from components.data.validation import Report
from components.progress import Progress, unwatched
from components.settings.params import Params
from flows.checkout import commits, files, paths, versions
from flows.checkout.locks import file_lock
from flows.checkout.readiness import require_data_ready
from flows.checkout.settings import load_params
from flows.runtime.exits import ends_in_a_sentence, refuse
from flows.runtime.terminal import open_tracker

LOCK = Path(".dvc/tmp/ingest.lock")
ANEW = (
    "all images are split for the first time, though there were data before; a model that is in service may have been "
    "trained on some that are test images now"
)


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """The numbers of images kept and turned away; data/raw/validation.json names each image."""

    classes: int
    images: int
    refused: int
    quarantined: int
    duplicates: int
    moved: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(from, to) -> images that changed their split."""

    notes: tuple[str, ...] = ()
    """Sentences about what else was decided about the source."""
    gone: tuple[str, ...] = ()
    """Classes of the previous data version that this one does not have."""

    def sentence(self) -> str:
        """Return a line with the numbers, and a line for everything that a person might not expect."""
        lines = [
            f"{self.images} images of {self.classes} classes in {paths.RAW}; {self.refused} refused, "
            f"{self.quarantined} quarantined, {self.duplicates} duplicates (each named in {paths.VALIDATION})",
            *(f"{count} images moved from {old} to {new}" for (old, new), count in sorted(self.moved.items())),
            *self.notes,
        ]
        if self.gone:
            lines.append(f"no image is left of {', '.join(self.gone)}: the data version before had such a class")
        return "\n".join(lines)


def ingest(params: Params, progress: Progress = unwatched, anew: Collection[str] = ()) -> IngestReport:
    """Read the source, make it the current data version, and push that if a DVC remote is configured.

    The images of the classes in `anew` are split as if no split were recorded for them.

    Raises ValueError, with nothing changed, if the source cannot be used or another ingest runs here; VersionsError if
    DVC cannot add or push the new data, which are in place by then.
    """
    with file_lock(LOCK, ValueError("another ingest is running in this folder; wait for it, or stop it there")):
        require_data_ready(params)
        before, classes, first = recorded_splits(), known_classes(), not paths.RAW.exists()
        source = open_source(params.data)
        with replacing_raw() as folder:
            report = take_in(source, folder, params.data, progress)
            assigned = split(report, params, before, anew)
            with files.replacing(paths.SPLIT) as temporary:
                write_assignment(temporary, assigned.assignment)
        versions.add_data(*paths.DATA)
        if versions.has_remote():
            push()
    return IngestReport(
        classes=len(report.classes),
        images=len(report.kept),
        refused=len(report.refused),
        quarantined=len(report.quarantined),
        duplicates=len(report.duplicates),
        moved=assigned.moved,
        notes=(*report.notes, *(() if first or before else (ANEW,))),
        gone=tuple(name for name in classes if name not in report.classes),
    )


def known_classes() -> tuple[str, ...]:
    """Return the classes of the current data version; none before the first, or if its report cannot be read."""
    try:
        return tuple(files.read_json(paths.VALIDATION)["classes"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def recorded_splits() -> Assignment | None:
    """Return the recorded split of every image so far, from the record on disk and from the one in DVC's file.

    The two differ if git brought another version of DVC's file, for example by a merge. Raises ValueError if a record
    cannot be read, and VersionsError if it is missing, because images would then change their split.
    """
    here = read_assignment(paths.SPLIT) if paths.SPLIT.exists() else None
    if not paths.SPLIT_DVC.exists():
        return here
    content = versions.data_object(paths.SPLIT_DVC)
    if content is None and here is None:
        raise commits.VersionsError(
            f"{paths.SPLIT} is missing, and neither DVC's cache nor a remote has it; bring it back with `dvc pull "
            f"{paths.SPLIT}`, or remove {paths.SPLIT_DVC} to split all images anew"
        )
    named = parse_assignment(paths.SPLIT_DVC, content.decode()) if content is not None else here
    assert named is not None
    return Assignment(here.shares, {**named.splits, **here.splits}) if here else named


def push() -> None:
    """Send the new data version to the remote. Raises VersionsError if that fails."""
    pointers = paths.DATA.values()
    try:
        versions.push_data(*pointers)
    except commits.VersionsError as failed:
        later = f"`dvc push {' '.join(map(str, pointers))}` sends them when it answers"
        raise commits.VersionsError(
            f"{failed}; the new data are in place here, and not in the remote: {later}"
        ) from None


def split(
    report: Report, params: Params, before: Assignment | None = None, anew: Collection[str] = ()
) -> AssignmentResult:
    """Assign a split to every image. Raises ValueError now, not in an hour, if no model could be trained on them."""
    if unknown := set(anew) - set(report.classes):
        raise ValueError(f"there is no class {min(unknown)!r} to split anew; use one of {', '.join(report.classes)}")
    images = [LabelledImage(entry.content, entry.label, entry.split) for entry in report.kept]
    shares = Shares.of(params.data, [image.own for image in images])
    assigned = assign(images, shares, before, anew)
    splits = [assigned.assignment.splits[image.content] for image in images]
    numbers = {name: number for number, name in enumerate(report.classes)}
    counts = count_classes(splits, [numbers[image.label] for image in images], report.classes)
    require_every_class(counts, own_test=shares.test is None)
    require_batch(counts, params.train.recipe.batch_size)
    return assigned


@contextlib.contextmanager
def replacing_raw() -> Iterator[Path]:
    """Yield an empty folder that replaces data/raw if the block succeeds, and is deleted if it raises.

    A kill leaves at most the folders `paths.INTERRUPTED`, which the next call removes. Only one process may call this.
    """
    folder = paths.RAW
    new, old = paths.INTERRUPTED
    recover(folder, old)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        swap(new, folder, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def swap(new: Path, folder: Path, old: Path) -> None:
    """Replace `folder` by `new` with two renames; a kill between them leaves the data whole in `old`."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        recover(folder, old)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path, old: Path) -> None:
    """Undo or complete a swap that was interrupted."""
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@ends_in_a_sentence
def main(arguments: Sequence[str] | None = None) -> int:
    chosen = commands.parse("ingest", arguments)
    try:
        with open_tracker() as tracker:
            report = ingest(load_params(chosen.params), tracker.progress, chosen.split_anew)
    except KeyboardInterrupt:
        return refuse(130, "interrupted; the data are whole, old or new: the same command again finishes")
    print(report.sentence())
    return 0


if __name__ == "__main__":
    commands.run(main)
