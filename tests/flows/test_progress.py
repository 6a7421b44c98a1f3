"""How far the work is: bars on a terminal, lines in a pipe, a table in Prefect; time by a clock of our own."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.settings.params import Params
from flows.resume.online_search import finished_trunks
from flows.runtime.board import Board, History, Step, Steps
from flows.runtime.progress import Channel, Loop, Pace, ShownObserver, Snapshot, Tracker, clock, read_snapshot
from flows.runtime.terminal import Lines
from flows.schedule.artifacts import Artifacts, row
from flows.stages import augmentation
from flows.tracking import connection, stage_run
from flows.tracking.stage_run import StageRun
from tests.clones import ROOT
from tests.flows.test_resume_online_search import Interrupted, Recorder, begin_with_noise, interrupt
from tests.stages import run as run_stage


@dataclass
class Seen:
    """A view that remembers, and a clock that the test moves."""

    time: float = 100.0
    snapshots: list[Snapshot] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def show(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def say(self, line: str) -> None:
        self.lines.append(line)

    @property
    def last(self) -> Snapshot:
        return self.snapshots[-1]


@pytest.fixture
def seen() -> Seen:
    return Seen()


# ---------------------------------------------------------------- time left


def test_time_left_is_that_of_the_items_to_come_at_the_mean_of_those_before_but_the_first() -> None:
    pace = Pace(total=10, done=0, now=0)
    assert pace.left(50) is None
    pace.advance(100)
    assert pace.left(100) == 900  # nothing else is known
    pace.advance(110)
    assert pace.left(110) == 80  # the first paid for the start
    pace.advance(140)
    assert pace.left(140) == 7 * 20
    assert pace.left(150) == 7 * 20 - 10
    assert pace.left(10_000) == 0


def test_what_an_earlier_run_did_is_done_and_says_nothing_of_the_time_that_the_rest_takes(seen: Seen) -> None:
    def trunks() -> Iterator[int]:
        for index in range(10):
            seen.time += 0.01 if index < 6 else 30
            yield index

    tracker = Tracker(seen, seen.now)
    loop = tracker.progress(trunks(), 10, "trunks", done=6)
    for _ in range(2):
        next(loop)
    first = next(snapshot for snapshot in seen.snapshots if snapshot.loops)
    assert (first.loops[0].done, first.loops[0].resumed, first.loops[0].left) == (6, 6, None)
    for _ in range(6):
        next(loop)
    last = seen.last.loops[0]
    assert (last.done, last.left) == (7, 90)
    assert list(loop) == [8, 9]
    assert (seen.last.loops[0].done, seen.last.loops[0].left) == (10, 0)


def test_the_search_that_is_resumed_starts_at_the_trunk_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    monkeypatch.chdir(tmp_path)
    params, checkpoint = begin_with_noise(), Path("checkpoint")
    with pytest.raises(Interrupted):
        run_stage(augmentation, params, Recorder(interrupt, after=1), checkpoint)
    assert finished_trunks(checkpoint) == 2
    run_stage(augmentation, params, ShownObserver(Recorder(), Tracker(seen)), checkpoint)
    shown = [snapshot.loops[0] for snapshot in seen.snapshots if snapshot.loops]
    assert {loop.what for loop in shown} == {"augmentation trunks"}
    assert (shown[0].done, shown[0].resumed, shown[0].total) == (2, 2, 4)
    assert [shown[-1].done, min(loop.done for loop in shown)] == [4, 2]
    assert re.fullmatch(r"best reward -?\d\.\d{3}", seen.last.figure)


def test_seconds_are_shown_as_a_clock_does() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 3661)] == ["0:00", "1:00", "59:59", "1:01:01"]


# ---------------------------------------------------------------- the tracker


def test_loops_nest_and_the_best_so_far_stays(seen: Seen) -> None:
    tracker = Tracker(seen, seen.now)
    for reward in tracker.progress((0.5, 0.2, float("nan")), 3, "loss trunks"):
        for _ in tracker.progress(range(2), 2, "copies", inner=True):
            seen.time += 1
        assert [loop.what for loop in seen.last.loops] == ["loss trunks", "copies"]
        tracker.metrics({"loss/reward/best": reward, "loss/reward/mean": 7.0})
    tracker.tell()
    assert [loop.what for loop in seen.last.loops] == ["loss trunks"]
    assert seen.last.figure == "best reward 0.500"
    halfway = Snapshot(at=0, loops=(Loop(what="trunks", total=4, done=1), Loop(what="copies", total=2, done=1)))
    assert halfway.share == 0.375


def test_a_loop_over_many_items_is_told_of_a_few_times_a_second(seen: Seen) -> None:
    for _ in Tracker(seen, seen.now).progress(range(50_000), 50_000, "validate"):
        seen.time += 1e-4
    assert 20 <= len(seen.snapshots) <= 30  # of 5 seconds
    assert seen.last.loops[0].done == 50_000


def test_the_channel_holds_the_last_snapshot_and_its_loss_is_no_failure(tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    folder.mkdir()
    channel = Channel(folder / "progress.json")
    assert read_snapshot(channel.file) is None
    said = Snapshot(at=1.5, loops=(Loop(what="trunks", total=4, left=2.0),), figure="best reward 0.100")
    channel.show(Snapshot(at=1.0))
    channel.show(said)
    assert read_snapshot(channel.file) == said
    assert list(folder.iterdir()) == [channel.file]
    channel.file.unlink()
    folder.rmdir()
    channel.show(said)


# ---------------------------------------------------------------- the line as a whole


@pytest.fixture
def line(seen: Seen, tmp_path: Path) -> Board:
    before = History(tmp_path / "seconds.json", "settings")
    for name, seconds in {"ingest": 5.0, "prepare": 10.0, "loss": 100.0, "gate": 1.0}.items():
        before.keep(name, seconds)
    known = History(tmp_path / "seconds.json", "settings")
    return Board(["ingest", "prepare", "loss", "gate"], seen, tmp_path / "progress.json", known, seen.now)


def table(board: Board) -> list[list[str]]:
    steps, now = board.steps_now()
    return [list(row(step, now).values()) for step in steps]


def fail_in_the_third_trunk(line: Board, seen: Seen) -> None:
    with line.step("loss", skips=True) as channel:
        tracker = Tracker(Channel(channel), seen.now)
        for trunk in tracker.progress(range(4), 4, "loss trunks"):
            tracker.metrics({"loss/reward/best": 0.25})
            seen.time += 10
            line.look()
            if trunk == 2:
                assert table(line)[2] == ["loss", "running", "2 of 4", "30", "best reward 0.250"]
                raise ValueError("bad input")


def test_the_table_of_stages_fills_while_the_line_runs(line: Board, seen: Seen) -> None:
    assert table(line) == [[name, "waiting", "", "", ""] for name in ("ingest", "prepare", "loss", "gate")]
    with line.step("ingest"):
        seen.time += 4
        assert table(line)[0] == ["ingest", "running", "", "4", ""]
        line.found("ingest", "1797 images")
    with line.step("prepare", skips=True):
        seen.time += 1
    with pytest.raises(ValueError, match="bad input"):
        fail_in_the_third_trunk(line, seen)
    assert table(line) == [
        ["ingest", "done", "", "4", "1797 images"],
        ["prepare", "unchanged", "", "1", ""],
        ["loss", "failed", "2 of 4", "30", "best reward 0.250"],
        ["gate", "waiting", "", "", ""],
    ]
    assert seen.lines == [
        "[1/4] ingest done in 0:04, 1797 images",
        "[2/4] prepare unchanged",
        "[2/4] loss failed after 0:30, best reward 0.250",
    ]


def test_the_time_left_of_the_line_is_that_of_the_step_and_of_those_ahead_as_they_were(line: Board, seen: Seen) -> None:
    with line.step("ingest"):
        assert seen.last.line is not None
        assert (seen.last.line.left, seen.last.loops[0].left) == (None, 5), "perhaps there is nothing to do"
        seen.time += 22
        assert line.step_left(line.steps["ingest"], seen.time) == 0, "it takes longer than the last time"
    with line.step("loss", skips=True) as channel:
        assert line.left(seen.time) is None
        loop = Tracker(Channel(channel), seen.now).progress(range(10), 10, "loss trunks")
        for _ in range(2):
            next(loop)
            seen.time += 3
        next(loop)
        line.look()
        assert seen.last.loops[0].left == 24
        assert line.left(seen.time) == 10 + 24 + 1
    assert History(line.before.file, "settings").seconds["ingest"] == 22
    assert History(line.before.file, "other settings").seconds == {}


def test_what_was_left_of_an_interrupted_step_is_not_what_it_takes(line: Board, seen: Seen) -> None:
    with line.step("loss", skips=True) as channel:
        for _ in Tracker(Channel(channel), seen.now).progress(range(10), 10, "loss trunks", done=9):
            seen.time += 1
    assert line.steps["loss"].state == "done"
    assert History(line.before.file, "settings").seconds["loss"] == 100


def test_a_step_that_never_ran_here_leaves_the_time_of_the_line_unknown(seen: Seen, tmp_path: Path) -> None:
    board = Board(["one", "two"], seen, tmp_path / "progress.json", History(tmp_path / "none.json", "s"), seen.now)
    with board.step("one"):
        assert seen.last.line == Loop(what="line", total=2)
        assert seen.last.loops == (Loop(what="one", total=1),)
    with pytest.raises(KeyboardInterrupt), board.step("two"):
        raise KeyboardInterrupt
    assert [step.state for step in board.steps.values()] == ["done", "interrupted"]


class Counted(Artifacts):
    """Prefect is told so many times."""

    def __init__(self) -> None:
        super().__init__(every=15)
        self.times: list[float] = []

    def tell(self, steps: Steps, now: float) -> None:
        self.times.append(now)


def test_prefect_is_told_when_a_step_begins_or_ends_and_else_now_and_then() -> None:
    told = Counted()
    waiting, running, done = (Step(name="loss", state=state) for state in ("waiting", "running", "done"))
    for now in range(100):
        told([waiting if now < 3 else running if now < 90 else done], float(now))
    assert told.times == [0, 3, 18, 33, 48, 63, 78, 90]


# ---------------------------------------------------------------- MLflow


class Reads(ShownObserver):
    """Reads, before each trunk of a search, what MLflow's store shows of it to everybody."""

    def __init__(self, run: StageRun) -> None:
        super().__init__(run, Tracker(Seen()))
        self.found: list[tuple[str, int]] = []
        self.run = run

    def progress(self, items, total, what, *, inner=False, done=0):  # type: ignore[no-untyped-def]
        if inner:
            yield from items
            return
        for item in items:
            yield item
            client = MlflowClient(connection.tracking_uri())
            found = client.get_metric_history(self.run.run_id, "augmentation/reward/best")
            self.found.append((client.get_run(self.run.run_id).info.status, len(found)))


def test_metrics_are_in_mlflow_trunk_by_trunk_while_the_stage_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(stage_run, "SLOW", 1e9)  # a loaded machine is no reason here to batch
    params: Params = begin_with_noise()
    observe = Reads(StageRun("augmentation"))
    run_stage(augmentation, params, observe, Path("checkpoint"))
    observe.run.end("FINISHED")
    assert observe.found == [("RUNNING", trunk) for trunk in (1, 2, 3, 4)]


# ---------------------------------------------------------------- what is on the screen

STAGE = """
import sys, time
from flows.runtime.terminal import open_tracker

with open_tracker() as tracker:
    for trunk in tracker.progress(range(4), 4, "loss trunks", done=1):
        for copy in tracker.progress(range(3), 3, "copies", inner=True):
            time.sleep(float(sys.argv[1]))
        tracker.metrics({"loss/reward/best": 0.125 * trunk})
        if trunk == 2:
            print("said by the stage")
print("after")
"""

LINE = """
import os, subprocess, sys
from flows.runtime.board import live_board
from flows.runtime.progress import CHANNEL
from flows.runtime.terminal import view_on_stderr

with view_on_stderr() as view, live_board(["prepare", "loss"], view) as board:
    with board.step("prepare", skips=True):
        pass
    with board.step("loss", skips=True) as channel:
        command = [sys.executable, "-c", os.environ["STAGE"], "0.3"]
        subprocess.run(command, env=os.environ | {CHANNEL: str(channel)}, check=True, start_new_session=True)
print("after")
"""

HIDES_CURSOR = "\x1b[?25l"
MOVES_UP = "\x1b[1A"


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "STAGE": STAGE, "COLUMNS": "100"}


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.master, slave = pty.openpty()
        self.modes = termios.tcgetattr(self.master)
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", *command],
            cwd=folder,
            env=environment(),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - background jobs ignore it
        )
        os.close(slave)

    def read(self, until: str | None = None, seconds: float = 60) -> str:
        """What it printed so far: up to the words, or to its end."""
        deadline = time.monotonic() + seconds
        while until is None or until not in self.text:
            assert time.monotonic() < deadline, self.text[-2000:]
            if not select.select([self.master], [], [], 0.2)[0]:
                if self.process.poll() is not None:
                    break
                continue
            try:
                part = os.read(self.master, 1 << 16)
            except OSError:  # the last program on it has ended
                break
            if not part:
                break
            self.text += part.decode(errors="replace")
        return self.text


def plain(text: str) -> list[str]:
    """Lines without colours and movements; the empty ones are left out."""
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")
    return [line for line in lines if line.strip()]


def piped(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *command], cwd=folder, env=environment(), capture_output=True, text=True, check=True
    )


def test_a_pipe_gets_lines(tmp_path: Path) -> None:
    done = piped(tmp_path, STAGE, "0")
    first, last = done.stderr.splitlines()
    assert first == "loss trunks 1/4, by an earlier run"
    assert re.fullmatch(r"loss trunks 4/4, best reward 0\.375, in 0:0\d", last)
    assert done.stdout == "said by the stage\nafter\n"


def test_lines_come_one_an_item_at_most_and_not_more_often_than_asked(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(sys.stderr)
    for second in range(41):
        loop = Loop(what="trunks", total=40, done=second, left=40.0 - second, took=second)
        lines.show(Snapshot(at=100 + second, loops=(loop,)))
        lines.show(Snapshot(at=100 + second, loops=(loop,)))
    assert capsys.readouterr().err.splitlines() == [
        "trunks 10/40, 0:30 left", "trunks 20/40, 0:20 left", "trunks 30/40, 0:10 left", "trunks 40/40, in 0:40"
    ]  # fmt: skip


def test_a_terminal_gets_nested_bars_with_what_is_printed_above_them(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, STAGE, "0.8")
    shown = terminal.read()
    assert terminal.process.wait(10) == 0
    assert MOVES_UP in shown
    assert HIDES_CURSOR not in shown
    lines = plain(shown)
    assert any(re.match(r"loss trunks ━.* 1/4 +$", line) for line in lines), "resumed"
    assert any(re.match(r"loss trunks ━+.* 3/4 +best reward 0\.250 +\d:\d\d left", line) for line in lines)
    assert any(re.match(r"  copies    ━+.* 2/3 ", line) for line in lines)
    last = [below for above, below in pairwise(lines) if re.match(r"loss trunks ━+.* 3/4 ", above)]
    assert any(re.match(r"  copies    ━+.* [12]/3 +\d:\d\d left", line) for line in last), "in every trunk anew"
    assert lines.count("said by the stage") == 1
    assert not any("by an earlier run" in line for line in lines), "lines are for pipes"
    assert re.match(r"loss trunks ━+ 4/4 best reward 0\.375", lines[-2])
    assert lines[-1] == "after"


def test_the_stage_of_a_flow_is_shown_by_the_flow(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1")
    shown = Terminal(tmp_path, LINE).read()
    lines = plain(shown)
    assert any(re.match(r"line +━+.* 1/2 ", line) for line in lines)
    assert any(re.match(r"  loss trunks ━+.* [123]/4 ", line) for line in lines)
    assert any(re.match(r"    copies    ━+.* [0123]/3 ", line) for line in lines)
    assert lines.count("said by the stage") == lines.count("[1/2] prepare unchanged") == 1
    assert any(re.match(r"\[2/2\] loss done in 0:0\d, best reward 0\.375", line) for line in lines)
    done = piped(tmp_path, LINE)
    first, early, end = done.stderr.splitlines()
    assert (first, early) == ("[1/2] prepare unchanged", "loss trunks 1/4, by an earlier run")
    assert end.startswith("[2/2] loss done in 0:0")
    assert done.stdout == "said by the stage\nafter\nafter\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_the_terminal_is_as_it_was_and_at_once(how: signal.Signals, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, STAGE, "60")
    terminal.read(until="copies")
    terminal.process.send_signal(how)
    before = time.monotonic()
    terminal.process.wait(30)
    assert time.monotonic() - before < 10  # on a loaded machine; 0.1 s when idle
    terminal.read()
    assert HIDES_CURSOR not in terminal.text
    assert termios.tcgetattr(terminal.master) == terminal.modes
    if how == signal.SIGINT:
        assert "KeyboardInterrupt" in plain(terminal.text)[-1]
