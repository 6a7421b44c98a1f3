"""What a stage costs is the CPU time of all that works for it."""

import subprocess
import sys
import time

import pytest

from flows.runtime.cost import CORE_MINUTES, MINUTES, cpu_seconds, record_cost
from flows.runtime.observer import Silent

BUSY = 0.4
"""CPU seconds that the child takes before it says so."""
CHILD = f"""
import sys, time
while time.process_time() < {BUSY}:
    pass
print("done", flush=True)
sys.stdin.read()
"""


class Kept(Silent):
    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def metrics(self, values, step=0):  # type: ignore[no-untyped-def]
        self.values |= values


def test_a_worker_counts_while_it_lives_and_after_it_was_waited_for() -> None:
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        living = cpu_seconds() - before
    assert living >= 0.9 * BUSY
    assert cpu_seconds() - before >= 0.9 * living


def fail() -> None:
    time.sleep(0.3)
    raise ValueError("bad input")


def test_time_asleep_is_no_core_time_and_a_stage_that_fails_says_its_cost_too() -> None:
    kept = Kept()
    with pytest.raises(ValueError, match="bad input"), record_cost(kept):
        fail()
    assert kept.values[MINUTES] * 60 >= 0.3
    assert 0 <= kept.values[CORE_MINUTES] * 60 < 0.3
