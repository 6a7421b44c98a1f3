"""Measure the CPU time of a stage and of all processes that it starts here (not of a cluster's workers)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import psutil

from flows.runtime.observer import Recorder

CORE_MINUTES, MINUTES = "usage/core_minutes", "usage/minutes"
"""Metrics of a stage's run; their names come last among MLflow's sorted charts."""


@contextmanager
def record_cost(observe: Recorder) -> Iterator[None]:
    """Record the cost of the block when it ends, however it ends."""
    began, spent = monotonic(), cpu_seconds()
    try:
        yield
    finally:
        cost = {CORE_MINUTES: (cpu_seconds() - spent) / 60, MINUTES: (monotonic() - began) / 60}
        observe.metrics(cost)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, of its ended children, and of the workers that still run."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system + sum(workers_seconds())


def workers_seconds() -> Iterator[float]:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            yield times.user + times.system + times.children_user + times.children_system
