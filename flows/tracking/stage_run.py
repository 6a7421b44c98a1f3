"""The MLflow run of a stage, whose tracker never fails the stage.

What MLflow does not take now waits (spool.py) and is offered again later, by this process or the next. The registry is
the opposite: publishing *is* MLflow, so errors surface.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from flows.checkout import paths
from flows.runtime import processes
from flows.tracking import connection, runs
from flows.tracking.connection import LOG
from flows.tracking.runs import PARAMS_PER_BATCH, Status
from flows.tracking.spool import Record, Spool, left_behind

FOR_GOOD = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
"""MLflow's error codes after which the same record is refused every time; after any other, such as those of a token
that ran out or of a server behind another that restarts, it may be taken later."""
TOO_LARGE = 413
"""HTTP: a file that the server in front of MLflow takes no more tomorrow than today."""
RETRY_AFTER = 30.0
"""Seconds a failing tracker is left alone at first (ours): a server that hangs must not slow a stage down."""
SLOW, REST = 1.0, 20.0
"""A tracker that took longer than SLOW seconds is left alone for REST times as long (ours): 5 % of the time at most."""
RUN_KEY = "line.run"
"""Tag: what a run is found by before MLflow has said which id it has."""
METRICS_PER_BATCH = 1000


class StageRun:
    """An MLflow run that a stage observes into; the run is created with the first record that MLflow takes.

    Every record carries the time it was made and waits, in memory and in a file, until MLflow has taken it: a tracker
    that is slow or down costs the stage no error and little time, and a kill costs no record. A failing tracker is left
    alone for RETRY_AFTER seconds, then twice that, ...; a slow one for REST times what it took.
    """

    def __init__(self, name: str, parent_run_id: str | None = None, tags: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.key = uuid4().hex
        self.run_id: str | None = None
        self._header = {
            "name": name,
            "parent": parent_run_id,
            "tags": {**(tags or {}), RUN_KEY: self.key, **processes.tags()},
            "started": connection.now(),
            "store": connection.store(),
        }
        self._spool = Spool(self.key, self._header)
        self._waiting: deque[Record] = deque()
        self._quiet_until, self._rest = 0.0, RETRY_AFTER
        self._warned = self._unkept = False
        self._deliver()
        if self.run_id:
            self._quiet_until = 0.0  # the first call creates tables, and says nothing of the next

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, nested or not; keys become `augmentation.online.trunks`."""
        for part in runs.parts_of(list(runs.flatten(values).items()), PARAMS_PER_BATCH):
            self._record({"params": part})

    def tags(self, values: Mapping[str, str]) -> None:
        for part in runs.parts_of(list(values.items()), PARAMS_PER_BATCH):
            self._record({"tags": part})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Named numbers of one step, nan and infinity included, in one call to MLflow."""
        made = connection.now()
        numbers = [(name, float(value), made, step) for name, value in values.items()]
        for part in runs.parts_of(numbers, METRICS_PER_BATCH):
            self._record({"metrics": part})

    def file(self, path: Path) -> None:
        """A written file, under its own name and as it is now."""
        self._record({"file": str(path)})

    def end(self, status: Status) -> None:
        """Close the run, after a last attempt at everything that waits."""
        self._record({"end": status, "time": connection.now()}, at_once=True)
        if self._waiting:
            LOG.warning(
                "warning: %d records of %s wait in %s; the next stage or flow hands them over",
                len(self._waiting), self.name, paths.SPOOL,
            )  # fmt: skip
        self._spool.close()

    def _record(self, record: Record, *, at_once: bool = False) -> None:
        self._waiting.append(record)
        self._keep(record)
        if at_once or time.monotonic() >= self._quiet_until:
            self._deliver()
        else:
            self._copy_files()

    def _deliver(self) -> None:
        """Hand over all that waits, oldest first; stop at the first sign that MLflow takes nothing now."""
        began = time.monotonic()
        try:
            client = connection.connect()
            self.run_id = self.run_id or open_run(client, self._header, again=self._warned)
            self._waiting = files_last(self._waiting)
            hand_over(client, self.run_id, self._waiting)
            self._spool.clear()
            took = time.monotonic() - began
            self._quiet_until = time.monotonic() + REST * took if took > SLOW else 0.0
        except Exception as error:  # whatever a server, a database or a store of files raises: boto3's own, for one
            self._quiet_until, self._rest = time.monotonic() + self._rest, 2 * self._rest
            self._copy_files()
            if not self._warned:
                connection.warn(f"MLflow takes no records of {self.name} at the moment", error)
            self._warned = True

    def _keep(self, record: Record) -> None:
        """On disk before it is offered; where the disk takes nothing either, in memory."""
        try:
            self._spool.add(record)
        except OSError as error:
            if not self._unkept:
                connection.warn(f"records of {self.name} wait in memory only", error)
            self._unkept = True

    def _copy_files(self) -> None:
        """Files that wait are what they were when they were recorded, whatever the next stage writes."""
        for record in self._waiting:
            if "file" in record and "copied" not in record:
                with suppress(OSError):  # then it is offered as it will be
                    record |= {"file": str(self._spool.copy(Path(record["file"]))), "copied": True}
                    self._keep(record)


def open_run(client: MlflowClient, header: Record, *, again: bool) -> str:
    """The run of a header; looked for first if an earlier attempt may have created it."""
    key = header["tags"][RUN_KEY]
    found = (
        client.search_runs([connection.experiment_id(client)], f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
        if again
        else []
    )
    if found:
        return str(found[0].info.run_id)
    return runs.create_run(client, header["name"], header["tags"], header["parent"], header["started"])


def files_last(records: Iterable[Record]) -> deque[Record]:
    """A store that takes no files still gets the numbers and the end."""
    return deque(sorted(records, key=lambda record: "file" in record))


def hand_over(client: MlflowClient, run_id: str, waiting: deque[Record]) -> None:
    """All that waits, from the left; what is taken, or refused for good, leaves it. Raises whatever stops it."""
    while waiting:
        for _ in range(deliver_next(client, run_id, waiting)):
            waiting.popleft()


def deliver_next(client: MlflowClient, run_id: str, waiting: Sequence[Record]) -> int:
    """Offer the oldest records, those of metrics together; returns how many were taken, or refused for good."""
    together, numbers = 0, 0
    for record in waiting:
        numbers += len(record.get("metrics", ()))
        if "metrics" not in record or numbers > METRICS_PER_BATCH:
            break
        together += 1
    if together > 1:
        try:
            deliver(
                client,
                run_id,
                {"metrics": [number for record in islice(waiting, together) for number in record["metrics"]]},
            )
            return together
        except MlflowException as error:
            if error.error_code not in FOR_GOOD:
                raise  # else one of them is refused: which one, the next calls tell
    deliver_one(client, run_id, waiting[0])
    return 1


def deliver(client: MlflowClient, run_id: str, record: Record) -> None:
    """Hand a record over; the same if done twice, since MLflow keeps equal records once."""
    if "file" in record:
        client.log_artifact(run_id, record["file"])
    elif "end" in record:
        client.set_terminated(run_id, record["end"], record["time"])
    else:
        client.log_batch(
            run_id,
            metrics=[Metric(*number) for number in record.get("metrics", ())],
            params=[Param(*param) for param in record.get("params", ())],
            tags=[RunTag(*tag) for tag in record.get("tags", ())],
        )


def deliver_one(client: MlflowClient, run_id: str, record: Record) -> None:
    """Offer one record; drop it, with a warning, if MLflow would refuse it every time."""
    try:
        deliver(client, run_id, record)
    except FileNotFoundError as error:
        connection.warn("a file was gone before MLflow had it", error)
    except MlflowException as error:
        if error.error_code not in FOR_GOOD:
            raise
        connection.warn("MLflow refused a record", error)
    except requests.HTTPError as error:
        if error.response is None or error.response.status_code != TOO_LARGE:
            raise
        connection.warn("a server in front of MLflow takes no file of this size", error)


def settle() -> None:
    """Hand over what earlier runs left in the spool, then end the runs whose process is gone.

    Once at the start of a flow or stage; without MLflow it waits for the next time.
    """
    with connection.tolerated("what earlier runs left"):
        client = connection.connect()
        connection.experiment_id(client)  # it answers: else each of them would wait for that
        for left in left_behind():
            if left.header.get("store", connection.store()) != connection.store():
                continue  # for another one
            try:
                hand_over(client, open_run(client, left.header, again=True), files_last(left.records))
                left.taken()
            except Exception as error:  # as in `StageRun`; the others' records do not wait for these
                connection.warn(f"MLflow does not take what {left.header['name']} left", error)
        reap()


def reap() -> list[str]:
    """End, as KILLED, every run that says RUNNING and whose process is gone; returns their ids."""
    client = connection.connect()
    running = client.search_runs([connection.experiment_id(client)], "attributes.status = 'RUNNING'")
    gone = [run.info.run_id for run in running if processes.is_gone(run.data.tags)]
    for run_id in gone:
        client.set_terminated(run_id, "KILLED", connection.now())
    return gone
