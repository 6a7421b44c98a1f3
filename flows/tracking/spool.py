"""Keep records on disk until MLflow has accepted them, so that no record is lost when a run is killed or ends first.

    <run>.jsonl     one record per line; the first line is the header, which describes the run
    <run>/<n>/      copies of files, as they were when they were recorded
    <run>.lock      locked while the run's process lives

A record is written to disk before it is sent, and removed after MLflow accepted it; sending it twice does no harm.
stage_run.py decides when records are sent, and what a stage does while MLflow is down.
"""

import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from flows.checkout import paths

Record = dict[str, Any]
"""A record, which JSON can hold; its numbers may be nan or infinite."""


class Spool:
    """The records of one run that MLflow has not accepted yet."""

    def __init__(self, run: str, header: Mapping[str, Any]) -> None:
        self.file = paths.SPOOL.absolute() / f"{run}.jsonl"
        self.header, self.copies, self.empty = dict(header), 0, True
        self._open: TextIO | None = None
        self._lock = FileLock(self.file.with_suffix(".lock"))

    def add(self, record: Record) -> None:
        """Write the record to disk; after that, killing this process does not lose it. Raises OSError."""
        if self._open is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._open = self.file.open("a", encoding="utf-8")
        lines = [self.header, record] if self.empty else [record]
        # the leading newline ends a line that a full disk cut off
        self._open.write("".join("\n" + json.dumps(line) for line in lines))
        self._open.flush()
        self.empty = False

    def copy(self, file: Path) -> Path:
        """Copy the file to a place where nothing overwrites it, and return that place. Raises OSError."""
        target = self.file.with_suffix("") / str(self.copies) / file.name
        self.copies += 1  # even if this copy fails: the next one gets a folder of its own
        target.parent.mkdir(parents=True)
        shutil.copyfile(file, target)
        return target

    def clear(self) -> None:
        """Forget the records, because MLflow has accepted them all."""
        if self._open is not None:
            self._open.truncate(0)
            self.empty = True

    def close(self) -> None:
        """Close the file and leave its records for the next process; delete it if there are none."""
        if self._open is not None:
            with suppress(OSError):  # the disk is full: the lines that were written stay
                self._open.close()
            self._open = None
            if self.empty:
                remove(self.file)
            self._lock.release()


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """The records that a run, whose process is gone, left for MLflow."""

    header: Record
    records: list[Record]
    file: Path

    @property
    def run(self) -> str:
        return self.file.stem

    def delete(self) -> None:
        """Delete the records, because MLflow has accepted them all."""
        remove(self.file)


def leftovers() -> Generator[Leftover, None, None]:
    """Yield the records of every run whose process is gone; each stays locked until the next is requested."""
    for file in sorted(paths.SPOOL.glob("*.jsonl")):
        lock = FileLock(file.with_suffix(".lock"))
        try:
            with lock.acquire(timeout=0):
                if not (records := read(file)):
                    remove(file)
                    continue
                header, *rest = records
                # if the disk was full for a moment, the header was written twice
                rest = [record for record in rest if record != header]
                yield Leftover(header=header, records=rest, file=file)
        except Timeout:
            continue


def read(file: Path) -> list[Record]:
    """Return the file's records, without lines that a kill or a full disk cut off; none if the file is gone."""
    records: list[Record] = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def remove(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.with_suffix(".lock").unlink(missing_ok=True)
    shutil.rmtree(file.with_suffix(""), ignore_errors=True)
