"""Show the progress of the whole line: which step runs, how far it is, what it found, and the time left.

The flow says when a step begins and ends; in between, a thread reads the step's channel (runtime/progress.py). The time
left for the steps ahead comes from their last run here under the same settings. It is shown only after a step that
could have been skipped has begun to work, because until then the steps ahead may be skipped too.
"""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path

from flows.checkout import files, paths
from flows.checkout.files import read_json, write_json
from flows.runtime.progress import Clock, Loop, Snapshot, View, clock, read_snapshot

SECONDS = Path(".dvc/tmp/seconds.json")
"""File with the seconds that the steps took here, and the settings that they ran under."""
LOOK_EVERY = 0.5
"""Seconds between two reads of the channel (our choice)."""
PATIENCE = 5.0
"""Seconds to wait at the end until the last state of the steps has been reported."""

WAITING, RUNNING, DONE, UNCHANGED, FAILED = "waiting", "running", "done", "unchanged", "failed"
INTERRUPTED = "interrupted"
ENDED = (DONE, UNCHANGED)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage of dvc.yaml, or a step of the flow before or after the stages."""

    name: str
    state: str = WAITING
    began: float | None = None
    took: float | None = None
    """Seconds that it took; None until it has ended."""
    snapshot: Snapshot | None = None
    """The step's last snapshot; None if it sent none."""
    figure: str = ""
    """What it found, in words."""

    def seconds(self, now: float) -> float | None:
        """Return the seconds that it has taken so far, or None if it has not begun."""
        return self.took if self.took is not None or self.began is None else now - self.began


Steps = Sequence[Step]
Tell = Callable[[Steps, float], None]
"""Called with (steps, now) every LOOK_EVERY seconds, in a separate thread."""


def report_to_nobody(steps: Steps, now: float) -> None:
    """Do nothing: there is nobody to report to."""


class Board:
    """The steps of one run of the line."""

    def __init__(
        self, names: Iterable[str], view: View, channel: Path, before: "History", now: Clock = time.monotonic
    ) -> None:
        self.steps = {name: Step(name=name) for name in names}
        self.view, self.channel, self.before, self.now = view, channel, before, now
        self.running: str | None = None
        self.may_skip, self.computing = False, False
        """Whether the running step may be skipped, and whether one that could have been skipped has begun to work."""
        self.lock = threading.Lock()

    @contextmanager
    def step(self, name: str, *, skips: bool = False) -> Iterator[Path]:
        """Run a step for the length of the block; the step writes its snapshots to the file that is yielded.

        With `skips`, a step that wrote no snapshot counts as unchanged.
        """
        self.channel.unlink(missing_ok=True)
        with self.lock:
            self.running, self.may_skip = name, skips
            self.steps[name] = replace(self.steps[name], state=RUNNING, began=self.now())
            self.show()
        state = FAILED
        try:
            yield self.channel
            state = DONE
        except KeyboardInterrupt:
            state = INTERRUPTED
            raise
        finally:
            self.end(name, state, skips=skips)

    def end(self, name: str, state: str, *, skips: bool) -> None:
        with self.lock:
            self.read()
            step, self.running = self.steps[name], None
            skipped = skips and state == DONE and step.snapshot is None
            step = replace(step, state=UNCHANGED if skipped else state, took=step.seconds(self.now()))
            self.steps[name] = step
            if step.state == DONE and not was_resumed(step):
                self.before.keep(name, step.took or 0.0)
            self.view.say(f"[{self.ended()}/{len(self.steps)}] {sentence(step)}")
            self.show()

    def found(self, name: str, figure: str) -> None:
        """Set what a step found that has no channel of its own."""
        with self.lock:
            self.steps[name] = replace(self.steps[name], figure=figure)

    def look(self) -> None:
        """Read the running step's snapshot, and show it if it is new."""
        with self.lock:
            if self.running and self.read():
                self.show()

    def read(self) -> bool:
        """Read the running step's snapshot; return whether it is new."""
        assert self.running
        step = self.steps[self.running]
        snapshot = read_snapshot(self.channel)
        if snapshot is None or snapshot == step.snapshot:
            return False
        self.steps[self.running] = replace(step, snapshot=snapshot, figure=snapshot.figure)
        self.computing |= self.may_skip
        return True

    def show(self) -> None:
        step = self.steps[self.running] if self.running else None
        snapshot = (step.snapshot if step else None) or Snapshot(at=self.now())
        line = Loop(what="line", total=len(self.steps), done=self.ended(), left=self.left(snapshot.at))
        loops: tuple[Loop, ...] = ()
        if step:
            first, *inner = snapshot.loops or (Loop(what=step.name, total=1),)
            loops = (replace(first, left=self.step_left(step, snapshot.at)), *inner)
        self.view.show(replace(snapshot, loops=loops, line=line))

    def ended(self) -> int:
        return sum(step.state in ENDED for step in self.steps.values())

    def left(self, now: float) -> float | None:
        """Return the seconds left for the line, or None if a step ahead never ran here or all may be skipped."""
        if not self.computing:
            return None
        parts = [self.step_left(step, now) for step in self.steps.values() if step.state in (WAITING, RUNNING)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def step_left(self, step: Step, now: float) -> float | None:
        """Return the seconds left for a step, from its loop or else from its last run; None if neither is known."""
        if step.snapshot and step.snapshot.loops and (left := step.snapshot.loops[0].left) is not None:
            return max(0.0, left - (now - step.snapshot.at))
        took = self.before.seconds.get(step.name)
        return None if took is None else max(0.0, took - (step.seconds(now) or 0.0))

    def steps_now(self) -> tuple[Steps, float]:
        with self.lock:
            return tuple(self.steps.values()), self.now()


def was_resumed(step: Step) -> bool:
    """Whether an earlier run did a part of the step; then its time here says little about the whole step."""
    return step.snapshot is not None and any(loop.resumed for loop in step.snapshot.loops)


def sentence(step: Step) -> str:
    """Say in a line how a step ended."""
    if step.state == UNCHANGED:
        return f"{step.name} {step.state}"
    joint = "in" if step.state == DONE else "after"
    return f"{step.name} {step.state} {joint} {clock(step.took or 0.0)}" + (f", {step.figure}" if step.figure else "")


# ---------------------------------------------------------------- what steps took


class History:
    """A file with the seconds that each step took when it last ran here under these settings."""

    def __init__(self, file: Path, settings: str) -> None:
        self.file, self.settings = file, settings
        self.seconds: dict[str, float] = {}
        with suppress(OSError, json.JSONDecodeError):
            content = read_json(file)
            if content["settings"] == settings:
                self.seconds = dict(content["seconds"])

    def keep(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(seconds, 1)
        with suppress(OSError):
            write_json(self.file, {"settings": self.settings, "seconds": self.seconds})


def history(file: Path = SECONDS) -> History:
    """Return the history for this folder and its params.yaml."""
    return History(file, files.digest(paths.PARAMS))


# ---------------------------------------------------------------- while the line runs


@contextmanager
def live_board(names: Iterable[str], view: View, tell: Tell = report_to_nobody) -> Iterator[Board]:
    """Yield a board; until the block ends, a thread reads the running step, shows it, and reports to `tell`."""
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="progress-") as folder:
        board = Board(names, view, Path(folder) / "progress.json", history())

        def watch() -> None:
            while not ended.wait(LOOK_EVERY):
                board.look()
                tell(*board.steps_now())
            tell(*board.steps_now())

        thread = threading.Thread(target=copy_context().run, args=(watch,), daemon=True, name="board")
        thread.start()
        try:
            yield board
        finally:
            ended.set()
            thread.join(PATIENCE)
