"""The line as a whole: which step runs, how far it is, what was found and how long it all still takes.

The flow tells when a step begins and ends; in between, a thread reads the step's channel (runtime/progress.py). What
the steps took here under the same settings says how long those ahead will take, once one of those works that may find
nothing to do; without it the time left is that of the step alone.
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
from flows.runtime.progress import Clock, Loop, Snapshot, View, clock, received

SECONDS = Path(".dvc/tmp/seconds.json")
"""What the steps took here, and under which settings."""
LOOK_EVERY = 0.5
"""Seconds between two looks at the channel (ours)."""
PATIENCE = 5.0
"""Seconds that whoever is told of the steps may take for the last news."""

WAITING, RUNNING, DONE, UNCHANGED, FAILED = "waiting", "running", "done", "unchanged", "failed"
INTERRUPTED = "interrupted"
ENDED = (DONE, UNCHANGED)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage of dvc.yaml, or what the flow does before and after them."""

    name: str
    state: str = WAITING
    began: float | None = None
    took: float | None = None
    """Seconds, once it has ended."""
    snapshot: Snapshot | None = None
    """The last that the step said of itself; None: it did not run."""
    figure: str = ""
    """What was found, in words."""

    def seconds(self, now: float) -> float | None:
        """So far; None: it has not begun."""
        return self.took if self.took is not None or self.began is None else now - self.began


Steps = Sequence[Step]
Tell = Callable[[Steps, float], None]
"""(steps, now): called now and then in a thread of its own, and soon after a step began or ended."""


def nobody(steps: Steps, now: float) -> None:
    """There is nobody to tell."""


class Board:
    """The steps of one run of the line."""

    def __init__(
        self, names: Iterable[str], view: View, channel: Path, before: "History", now: Clock = time.monotonic
    ) -> None:
        self.steps = {name: Step(name=name) for name in names}
        self.view, self.channel, self.before, self.now = view, channel, before, now
        self.running: str | None = None
        self.may_skip, self.computing = False, False
        """Whether the running step may do nothing; whether one that might have has begun to work."""
        self.lock = threading.Lock()

    @contextmanager
    def step(self, name: str, *, skips: bool = False) -> Iterator[Path]:
        """A step begins and ends with the block; what it says of itself goes into the file that the block is given.

        `skips`: a step that says nothing did nothing.
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
            if step.state == DONE and not resumed(step):
                self.before.keep(name, step.took or 0.0)
            self.view.say(f"[{self.ended()}/{len(self.steps)}] {sentence(step)}")
            self.show()

    def found(self, name: str, figure: str) -> None:
        """What a step found that says nothing of itself."""
        with self.lock:
            self.steps[name] = replace(self.steps[name], figure=figure)

    def look(self) -> None:
        """Read what the running step says, and show it."""
        with self.lock:
            if self.running and self.read():
                self.show()

    def read(self) -> bool:
        """Whether there was news."""
        assert self.running
        step = self.steps[self.running]
        snapshot = received(self.channel)
        if snapshot is None or snapshot == step.snapshot:
            return False
        self.steps[self.running] = replace(step, snapshot=snapshot, figure=snapshot.figure)
        self.computing |= self.may_skip
        return True

    def show(self) -> None:
        step = self.steps[self.running] if self.running else None
        said = (step.snapshot if step else None) or Snapshot(at=self.now())
        line = Loop(what="line", total=len(self.steps), done=self.ended(), left=self.left(said.at))
        loops: tuple[Loop, ...] = ()
        if step:
            first, *inner = said.loops or (Loop(what=step.name, total=1),)
            loops = (replace(first, left=self.step_left(step, said.at)), *inner)
        self.view.show(replace(said, loops=loops, line=line))

    def ended(self) -> int:
        return sum(step.state in ENDED for step in self.steps.values())

    def left(self, now: float) -> float | None:
        """Seconds that the line still takes; None: one of the steps ahead never ran here, or all may yet be skipped."""
        if not self.computing:
            return None
        parts = [self.step_left(step, now) for step in self.steps.values() if step.state in (WAITING, RUNNING)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def step_left(self, step: Step, now: float) -> float | None:
        """By what its loop says, else by what it took the last time."""
        if step.snapshot and step.snapshot.loops and (left := step.snapshot.loops[0].left) is not None:
            return max(0.0, left - (now - step.snapshot.at))
        took = self.before.seconds.get(step.name)
        return None if took is None else max(0.0, took - (step.seconds(now) or 0.0))

    def told_steps(self) -> tuple[Steps, float]:
        with self.lock:
            return tuple(self.steps.values()), self.now()


def resumed(step: Step) -> bool:
    """Whether an earlier run did a part: what is left of a step says little of the whole."""
    return step.snapshot is not None and any(loop.resumed for loop in step.snapshot.loops)


def sentence(step: Step) -> str:
    """How a step ended, in a line."""
    if step.state == UNCHANGED:
        return f"{step.name} {step.state}"
    joint = "in" if step.state == DONE else "after"
    return f"{step.name} {step.state} {joint} {clock(step.took or 0.0)}" + (f", {step.figure}" if step.figure else "")


# ---------------------------------------------------------------- what steps took


class History:
    """Seconds that each step took when it last ran here under these settings; kept in a file."""

    def __init__(self, file: Path, settings: str) -> None:
        self.file, self.settings = file, settings
        self.seconds: dict[str, float] = {}
        with suppress(OSError, json.JSONDecodeError):
            said = read_json(file)
            if said["settings"] == settings:
                self.seconds = dict(said["seconds"])

    def keep(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(seconds, 1)
        with suppress(OSError):
            write_json(self.file, {"settings": self.settings, "seconds": self.seconds})


def history(file: Path = SECONDS) -> History:
    """Of this folder and its params.yaml."""
    return History(file, files.digest(paths.PARAMS))


# ---------------------------------------------------------------- while the line runs


@contextmanager
def watching(names: Iterable[str], view: View, tell: Tell = nobody) -> Iterator[Board]:
    """A board whose running step is read, shown and told of until the block ends."""
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="progress-") as folder:
        board = Board(names, view, Path(folder) / "progress.json", history())

        def watch() -> None:
            while not ended.wait(LOOK_EVERY):
                board.look()
                tell(*board.told_steps())
            tell(*board.told_steps())

        thread = threading.Thread(target=copy_context().run, args=(watch,), daemon=True, name="board")
        thread.start()
        try:
            yield board
        finally:
            ended.set()
            thread.join(PATIENCE)
