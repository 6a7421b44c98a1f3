"""Show the line in Prefect: a table of its steps, and a progress artifact for each step that has a loop.

Each artifact is updated in place: new versions would fill the server's database and the list that a person sees.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException

from flows.runtime.board import DONE, Step, Steps
from flows.tracking import connection

EVERY = 15.0
"""Seconds between two updates while a step runs (our choice); each takes two calls, for the table and for the step."""
ERRORS = (httpx.HTTPError, PrefectException, OSError)
"""Exceptions that mean Prefect's server failed."""

LOG = logging.getLogger(__name__)


@contextmanager
def failure_as_warning(what: str) -> Iterator[None]:
    """Turn an error of Prefect in the block into a warning that names what is not shown; the work continues."""
    try:
        yield
    except ERRORS as error:
        warn(what, error)


def warn(what: str, error: Exception) -> None:
    LOG.warning("warning: Prefect does not show %s (%s); the work goes on", what, connection.reason_of(error))


class Artifacts:
    """Reports the steps to Prefect: at once when one begins or ends, else every EVERY seconds.

    If Prefect fails, there is one warning and the update is lost."""

    def __init__(self, every: float = EVERY) -> None:
        self.every = every
        self.states: tuple[str, ...] = ()
        self.due = 0.0
        self.table: UUID | None = None
        self.bars: dict[str, tuple[UUID, float]] = {}
        """Step -> its progress artifact, and the percentage that was last sent."""
        self.warned = False

    def __call__(self, steps: Steps, now: float) -> None:
        states = tuple(step.state for step in steps)
        if states == self.states and now < self.due:
            return
        self.states, self.due = states, now + self.every
        try:
            self.tell(steps, now)
        except ERRORS as error:
            if not self.warned:
                warn("how far the line is", error)
            self.warned = True

    def tell(self, steps: Steps, now: float) -> None:
        rows = [row(step, now) for step in steps]
        if self.table is None:
            created = create_table_artifact(rows, key="stages", description="The steps of the line")
            self.table = cast(UUID, created)  # it would be a coroutine only inside a coroutine
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self.table, ArtifactUpdate(data=json.dumps(rows)))
        for step in steps:
            if step.snapshot and step.snapshot.loops:
                self.tell_progress(step)

    def tell_progress(self, step: Step) -> None:
        assert step.snapshot
        percent = 100.0 if step.state == DONE else 100 * step.snapshot.share
        if step.name not in self.bars:
            key = re.sub("[^a-z0-9]+", "-", f"progress-{step.name}")
            created = create_progress_artifact(percent, key=key, description=progress_line(step))
            self.bars[step.name] = (cast(UUID, created), percent)
            return
        artifact, before = self.bars[step.name]
        if percent != before:
            update_progress_artifact(artifact, percent, description=progress_line(step))
            self.bars[step.name] = (artifact, percent)


def progress_line(step: Step) -> str:
    """Describe the step's progress in a line."""
    assert step.snapshot
    loop = step.snapshot.loops[0]
    return ", ".join(part for part in (f"{loop.what} {loop.done} of {loop.total}", step.figure) if part)


def row(step: Step, now: float) -> dict[str, str]:
    """Return the step's row of the table."""
    loops = step.snapshot.loops if step.snapshot else ()
    seconds = step.seconds(now)
    return {
        "stage": step.name,
        "state": step.state,
        "progress": f"{loops[0].done} of {loops[0].total}" if loops else "",
        "seconds": "" if seconds is None else f"{seconds:.0f}",
        "key figure": step.figure,
    }
