"""Track how far the work is, what it found so far, and how long it will still take.

A loop is shown by passing its items through `Tracker.progress`. The tracker sends snapshots to a view: a terminal's
bars, lines (flows/runtime/terminal.py) or a file:

    a stage under the flow                writes it to the file that CHANNEL names; the flow reads and shows it
    a stage under `dvc repro`, `ingest`   shows it itself

It is a file because DVC and a shell stand between the flow and its stage and pass no descriptor on, because a file
never blocks its writer, and because only the last snapshot counts. A stage that writes to the file prints no progress.
"""

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from flows.checkout.roster import FIGURES, Figure
from flows.runtime.observer import Recorder

T = TypeVar("T")
Clock = Callable[[], float]

CHANNEL = "ASSEMBLY_LINE_PROGRESS"
"""Environment variable with the file that holds a stage's last snapshot while it runs."""
EVERY = 0.2
"""Seconds between two snapshots of one loop (our choice), however many items it has: one takes 0.15 ms of CPU."""
OUTER, INNER = 0, 1


# ---------------------------------------------------------------- what is shown


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The state of a loop."""

    what: str
    total: int
    done: int = 0
    resumed: int = 0
    """How many of those done were done by an earlier run."""
    left: float | None = None
    """Seconds left at the snapshot's time; None if no item has been computed yet."""
    took: float = 0.0
    """Seconds since the loop began, at the snapshot's time."""

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 1.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The loops of a process at one time, the outer one first."""

    at: float
    """Time in seconds of `time.monotonic`, which all processes of a machine share."""
    loops: tuple[Loop, ...] = ()
    figure: str = ""
    """What was found so far, in words."""
    line: Loop | None = None
    """The loop over all steps of the line, if a flow shows one of its steps."""

    @property
    def share(self) -> float:
        """The share of the outer loop that is done, including the inner loop's part of the next item."""
        if not self.loops:
            return 0.0
        outer, *inner = self.loops
        return min(1.0, outer.share + sum(loop.share for loop in inner) / max(outer.total, 1))


class View(Protocol):
    """Shows snapshots, and drops what it cannot show."""

    def show(self, snapshot: Snapshot) -> None: ...

    def say(self, line: str) -> None:
        """Print a line that stays."""
        ...


# ---------------------------------------------------------------- time left


class Pace:
    """Estimates the seconds that a loop still needs from the time that its items took so far.

    The first item includes the start (workers, head start, warm-up), so it counts only until there is a second; items
    of an earlier run never count. Between two items the estimate counts down, at most to zero.
    """

    def __init__(self, total: int, done: int, now: float) -> None:
        self.total, self.done, self.fresh = total, done, 0
        self.began = self.start = self.first = self.last = now

    def begin(self, now: float) -> None:
        """Start the measurement: the items before now were only read."""
        self.start = self.last = now

    def advance(self, now: float) -> None:
        """Count one more item as done."""
        self.done += 1
        self.fresh += 1
        self.first = now if self.fresh == 1 else self.first
        self.last = now

    def left(self, now: float) -> float | None:
        """Return the seconds left, or None if no item has been computed yet."""
        if self.fresh == 0:
            return None
        each = self.first - self.start if self.fresh == 1 else (self.last - self.first) / (self.fresh - 1)
        return max(0.0, each * max(0, self.total - self.done) - (now - self.last))


def clock(seconds: float) -> str:
    """Format seconds as `m:ss`, or as `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


# ---------------------------------------------------------------- the tracker


class Tracker:
    """Sends the loops of this process and its key figure to a view."""

    def __init__(self, view: View, now: Clock = time.monotonic) -> None:
        self.view, self.now = view, now
        self.loops: list[tuple[str, Pace, int]] = []
        """(what, pace, items done by an earlier run) of the outer loop, and of the inner one while it runs."""
        self.figure = ""
        self.best: dict[Figure, float] = {}
        self.told = [-math.inf, -math.inf]
        """When a snapshot of each level was last sent."""
        self.tell()

    def progress(self, items: Iterable[T], total: int, what: str, *, inner: bool = False, done: int = 0) -> Iterator[T]:
        """Implement `Observer.progress`. The outer loop is shown until the next one, the inner one until it ends."""
        level = INNER if inner and self.loops else OUTER
        pace = Pace(total, min(done, total), self.now())
        own = (what, pace, pace.done)
        self.loops[level:] = [own]
        self.tell_if_due(level, at_once=level == OUTER)
        try:
            for count, item in enumerate(items, start=1):
                if count == done:
                    pace.begin(self.now())
                yield item
                if count > done:
                    pace.advance(self.now())
                    self.tell_if_due(level, at_once=level == OUTER and pace.done == total)
        finally:
            if level == INNER and own in self.loops:
                self.loops.remove(own)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Update the key figure if it is among these metrics; the next snapshot shows it."""
        for name, value in values.items():
            for figure in FIGURES:
                if math.isfinite(value) and re.fullmatch(figure.metric, name):
                    self.best[figure] = figure.keep(self.best.get(figure, value), value)
                    self.figure = figure.words.format(self.best[figure])

    def tell_if_due(self, level: int, *, at_once: bool) -> None:
        now = self.now()
        if at_once or now - self.told[level] >= EVERY:
            self.told[level] = now
            self.tell()

    def tell(self) -> None:
        now = self.now()
        loops = (
            Loop(
                what=what,
                total=pace.total,
                done=pace.done,
                resumed=resumed,
                left=pace.left(now),
                took=now - pace.began,
            )
            for what, pace, resumed in self.loops
        )
        self.view.show(Snapshot(at=now, loops=tuple(loops), figure=self.figure))


class ShownObserver:
    """An observer that passes records on to a recorder and shows loops with a tracker."""

    def __init__(self, recorder: Recorder, tracker: Tracker) -> None:
        self.recorder, self.tracker = recorder, tracker

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.recorder.metrics(values, step)
        self.tracker.metrics(values)

    def tags(self, values: Mapping[str, str]) -> None:
        self.recorder.tags(values)

    def file(self, path: Path) -> None:
        self.recorder.file(path)

    def progress(self, items: Iterable[T], total: int, what: str, *, inner: bool = False, done: int = 0) -> Iterator[T]:
        yield from self.tracker.progress(items, total, what, inner=inner, done=done)


# ---------------------------------------------------------------- the channel


class Channel:
    """A view that keeps the last snapshot in a file, which is whole at any time."""

    def __init__(self, file: Path) -> None:
        self.file, self.draft = file, file.with_name(f".{file.name}")

    def show(self, snapshot: Snapshot) -> None:
        with suppress(OSError):  # the flow's folder is gone, or the disk is full; the work continues
            self.draft.write_text(json.dumps(asdict(snapshot)))
            os.replace(self.draft, self.file)

    def say(self, line: str) -> None:
        pass


def read_snapshot(file: Path) -> Snapshot | None:
    """Return the last snapshot in the file, or None if there is none."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    return Snapshot(**(content | {"loops": tuple(Loop(**loop) for loop in content["loops"])}))


@contextmanager
def tracker_for(view: View) -> Iterator[Tracker]:
    """Yield a tracker for the block, and show its last state however the block ends."""
    tracker = Tracker(view)
    try:
        yield tracker
    finally:
        tracker.tell()
