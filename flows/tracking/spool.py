"""Records on disk that the tracker did not take yet: a run that is killed, or ends first, loses none of them.

    <run>.jsonl     a line a record; the first says whose they are
    <run>/<n>/      copies of files, as they were when they were recorded
    <run>.lock      held while the run's process lives

A record is on disk before it is offered, and leaves it when it was taken; offered twice, it counts once.
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
"""What JSON can hold; numbers may be nan or infinite."""


class Spool:
    """The records of one run that are not taken yet."""

    def __init__(self, run: str, header: Mapping[str, Any]) -> None:
        self.file = paths.SPOOL.absolute() / f"{run}.jsonl"
        self.header, self.copies, self.empty = dict(header), 0, True
        self._open: TextIO | None = None
        self._lock = FileLock(self.file.with_suffix(".lock"))

    def add(self, record: Record) -> None:
        """No kill of this process loses it once this returns. Raises OSError."""
        if self._open is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._open = self.file.open("a", encoding="utf-8")
        lines = [self.header, record] if self.empty else [record]
        self._open.write(
            "".join("\n" + json.dumps(line) for line in lines)
        )  # a line that a full disk cut off ends here
        self._open.flush()
        self.empty = False

    def copy(self, file: Path) -> Path:
        """A copy that nobody writes over. Raises OSError."""
        target = self.file.with_suffix("") / str(self.copies) / file.name
        self.copies += 1  # also where this one fails: the next has a folder of its own
        target.parent.mkdir(parents=True)
        shutil.copyfile(file, target)
        return target

    def clear(self) -> None:
        """All of it was taken."""
        if self._open is not None:
            self._open.truncate(0)
            self.empty = True

    def close(self) -> None:
        """Leave what is there for the next process."""
        if self._open is not None:
            with suppress(OSError):  # a full disk: what it took is there
                self._open.close()
            self._open = None
            if self.empty:
                remove(self.file)
            self._lock.release()


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a run whose process is gone left to be taken."""

    header: Record
    records: list[Record]
    file: Path

    @property
    def run(self) -> str:
        return self.file.stem

    def taken(self) -> None:
        """All of it was."""
        remove(self.file)


def left_behind() -> Generator[Left, None, None]:
    """Of every run whose process is gone, held until the next is asked for."""
    for file in sorted(paths.SPOOL.glob("*.jsonl")):
        lock = FileLock(file.with_suffix(".lock"))
        try:
            with lock.acquire(timeout=0):
                if not (records := read(file)):
                    remove(file)
                    continue
                header, *rest = records
                # a disk that was full for a moment let the header be written twice
                rest = [record for record in rest if record != header]
                yield Left(header=header, records=rest, file=file)
        except Timeout:
            continue


def read(file: Path) -> list[Record]:
    """The records; a line that a kill or a full disk cut off is none. Nothing if another process has taken them."""
    records: list[Record] = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def remove(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.with_suffix(".lock").unlink(missing_ok=True)
    shutil.rmtree(file.with_suffix(""), ignore_errors=True)
