"""Show progress on stderr: nested bars on a terminal, elsewhere a line from time to time.

Everything else that the process and its children print goes through a pipe and appears above the bars (`Pipe`), since
Prefect's logger, DVC, a stage and its workers only write to their descriptors. The cursor is never hidden and no mode
of the terminal is changed, so a kill at any moment leaves nothing to be restored.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from flows.runtime.progress import CHANNEL, Channel, Clock, Loop, Snapshot, Tracker, View, clock, tracker_for

REFRESHES = 1.0
"""Redraws per second (our choice): drawing a bar takes 0.4 ms of CPU."""
LINE_EVERY = 10.0
"""Seconds between two lines of one loop if there is no terminal (our choice)."""
PATIENCE = 1.0
"""Seconds to wait for the last printed lines to appear."""
END = b"\0end of what goes above the bars"


# ---------------------------------------------------------------- lines


class Lines:
    """A view that prints lines: at most one in `every` seconds when an item of the outer loop is done.

    A last line says that the loop has ended, unless a flow prints how the step ended."""

    def __init__(self, stream: TextIO, every: float = LINE_EVERY) -> None:
        self.stream, self.every = stream, every
        self.what, self.done, self.due = "", 0, 0.0

    def show(self, snapshot: Snapshot) -> None:
        if not snapshot.loops:
            return
        loop = snapshot.loops[0]
        if loop.what != self.what:
            self.what, self.done, self.due = loop.what, loop.resumed, snapshot.at + self.every
            if loop.resumed:
                self.say(f"{loop.what} {loop.resumed}/{loop.total}, by an earlier run")
        due = snapshot.line is None if loop.done >= loop.total else snapshot.at >= self.due
        if loop.done != self.done and due:
            self.done, self.due = loop.done, snapshot.at + self.every
            self.say(sentence(loop, snapshot.figure))

    def say(self, line: str) -> None:
        with suppress(OSError, ValueError):  # the stream is closed
            print(line, file=self.stream, flush=True)


def sentence(loop: Loop, figure: str) -> str:
    """Say in a line how far the loop is."""
    parts = [f"{loop.what} {loop.done}/{loop.total}", figure]
    if loop.done >= loop.total:
        parts.append(f"in {clock(loop.took)}")
    elif loop.left is not None:
        parts.append(f"{clock(loop.left)} left")
    return ", ".join(part for part in parts if part)


# ---------------------------------------------------------------- bars


class TimeLeft(ProgressColumn):
    """The column with the time left, which counts down between two snapshots."""

    def __init__(self, now: Clock) -> None:
        super().__init__()
        self.now = now

    def render(self, task: Task) -> Text:
        left, at = task.fields["left"], task.fields["at"]
        done = task.completed >= (task.total or 0)  # `task.finished` stays true, but a row shows many loops
        return Text("" if left is None or done else f"{clock(max(0.0, left - (self.now() - at)))} left")


class SteadyConsole(Console):
    """A terminal that never hides its cursor, and whose size does not depend on standard input and output."""

    def show_cursor(self, show: bool = True) -> bool:
        return False

    @property  # type: ignore[misc]  # nobody sets it
    def size(self) -> ConsoleDimensions:
        columns, lines = os.get_terminal_size(self.file.fileno())
        return ConsoleDimensions(columns or 80, lines or 25)


class Bars:
    """A view that draws a bar for every loop, each below the loop that contains it."""

    def __init__(self, terminal: TextIO, now: Clock) -> None:
        self.console = SteadyConsole(
            file=terminal, force_terminal=True, force_interactive=True, highlight=False, emoji=False
        )
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figure]}", markup=False),
            TimeLeft(now),
            console=self.console,
            refresh_per_second=REFRESHES,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.tasks: list[TaskID] = []
        self.bars.start()

    def show(self, snapshot: Snapshot) -> None:
        above = [snapshot.line] if snapshot.line else []
        rows = [*above, *snapshot.loops]
        with suppress(OSError):  # the terminal is gone
            for depth, loop in enumerate(rows):
                says: dict[str, Any] = {
                    "description": "  " * depth + loop.what,
                    "total": loop.total,
                    "completed": loop.done,
                    "figure": snapshot.figure if depth == len(above) else "",
                    "left": loop.left,
                    "at": snapshot.at,
                }
                if depth < len(self.tasks):
                    self.bars.update(self.tasks[depth], **says)
                else:
                    self.tasks.append(self.bars.add_task(**says))
            while len(self.tasks) > len(rows):
                self.bars.remove_task(self.tasks.pop())

    def say(self, line: str) -> None:
        """Print the line above the bars."""
        with suppress(OSError):
            self.console.print(Text.from_ansi(line), soft_wrap=True)

    def close(self) -> None:
        with suppress(OSError):
            self.bars.stop()


# ---------------------------------------------------------------- above the bars


class Pipe:
    """Replaces the terminal's descriptors by a pipe, and prints the lines from the pipe above the bars."""

    def __init__(self, bars: Bars, streams: Sequence[TextIO]) -> None:
        self.bars, self.streams = bars, streams
        self.source, self.sink = os.pipe()
        self.ended = threading.Event()
        self.flush()
        self.before = [(stream.fileno(), os.dup(stream.fileno())) for stream in streams]
        for number, _ in self.before:
            os.dup2(self.sink, number)
        threading.Thread(target=self.pump, daemon=True, name="above the bars").start()

    def pump(self) -> None:
        """Print lines until the last writer is gone, because a worker may outlive the bars."""
        rest = b""
        while chunk := os.read(self.source, 1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                text = line.removesuffix(END)
                if text or not line:
                    self.bars.say(text.decode(errors="replace"))
                if text != line:
                    self.ended.set()

    def close(self) -> None:
        """Restore the descriptors, and wait until everything printed before is above the bars."""
        self.flush()
        for number, before in self.before:
            os.dup2(before, number)
            os.close(before)
        os.write(self.sink, END + b"\n")
        os.close(self.sink)
        self.ended.wait(PATIENCE)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()


# ---------------------------------------------------------------- where it is shown


def is_terminal(stream: TextIO) -> bool:
    """Whether bars can be drawn there."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def view_on_stderr(now: Clock = time.monotonic) -> Iterator[View]:
    """Yield a view on stderr: bars with all other output above them or, if stderr is no terminal, lines."""
    if not is_terminal(sys.stderr):
        yield Lines(sys.stderr)
        return
    # stays open for what a worker prints after the end
    bars = Bars(os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8"), now)
    pipe = Pipe(bars, [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()])
    try:
        yield bars
    finally:
        pipe.close()
        bars.close()


@contextmanager
def open_tracker() -> Iterator[Tracker]:
    """Yield a tracker of this process, shown by the flow that started it or, without a flow, on stderr."""
    if file := os.environ.get(CHANNEL):
        with tracker_for(Channel(Path(file))) as tracker:
            yield tracker
        return
    with view_on_stderr() as view, tracker_for(view) as tracker:
        yield tracker
