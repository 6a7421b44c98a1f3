"""What a stage costs: CPU time of its process and of all that it starts here; a cluster's workers count elsewhere."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import psutil

from flows.runtime.observer import Recorder

CORE_MINUTES, MINUTES = "usage/core_minutes", "usage/minutes"
"""Metrics of a stage's run; a name that comes last, where MLflow sorts its charts."""


@contextmanager
def counted(observe: Recorder) -> Iterator[None]:
    """Say at the end of the block, however it ends, what it took."""
    began, spent = monotonic(), cpu_seconds()
    try:
        yield
    finally:
        cost = {CORE_MINUTES: (cpu_seconds() - spent) / 60, MINUTES: (monotonic() - began) / 60}
        observe.metrics(cost)


def cpu_seconds() -> float:
    """Of this process, of those that it waited for, and of the workers that are still there."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system + sum(workers_seconds())


def workers_seconds() -> Iterator[float]:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            yield times.user + times.system + times.children_user + times.children_system
