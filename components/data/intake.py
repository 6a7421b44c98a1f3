"""Intake of an opened source into a complete `data/raw` folder."""

from pathlib import Path

from components.data.raw import Spill, write_shards
from components.data.records import Entry, Refused, Source
from components.data.store import write_record
from components.data.validation import Rejection, Report, describe, examine, reject, require_enough, resolve
from components.progress import Progress
from components.settings.data import Data

VALIDATION = "validation.json"


def take_in(source: Source, folder: Path, data: Data, progress: Progress) -> Report:
    """Read every record once and fill the empty `folder` with shards and validation.json.

    One image is decoded at a time; encoded bytes wait on disk. Raises ValueError if a class is left with too few
    images, or the source fails.
    """
    with Spill(folder) as spill:
        entries, refused = read_records(source, spill, data.max_pixels, progress)
        report = resolve(source, entries, refused)
        require_enough(report)
        for _ in progress(write_shards(folder, report.kept, report.classes, spill), len(report.kept), "write"):
            pass
    write_record(folder / VALIDATION, describe(report))
    return report


def read_records(
    source: Source, spill: Spill, max_pixels: int, progress: Progress
) -> tuple[list[Entry], list[Rejection]]:
    """Examine every record, and write the bytes of the sound ones to the spill files."""
    entries: list[Entry] = []
    refused: list[Rejection] = []
    classes = frozenset(source.classes) if source.classes is not None else None
    for record in progress(source.records, source.count, "validate"):
        try:
            image, content, channels = examine(record, classes, max_pixels)
        except Refused as refusal:
            refused.append(reject(record, refusal))
            continue
        entry = Entry(
            path=record.path,
            label=record.label,
            split=record.split,
            content=content,
            channels=channels,
            start=spill.append(content, image),
            length=len(image),
        )
        entries.append(entry)
    return entries, refused
