"""Record a stage in an MLflow run without ever failing the stage.

Records that MLflow does not accept now wait (spool.py) and are sent again later, by this process or the next. The
registry is different: nothing can be published without MLflow, so there its errors are raised.
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
from flows.tracking.spool import Record, Spool, leftovers

PERMANENT_ERRORS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
"""MLflow's error codes for records that it will always refuse. After any other error, such as an expired token or a
restarting server, the same record may be accepted later."""
TOO_LARGE = 413
"""HTTP status of a file that exceeds the limit of the server in front of MLflow, and always will."""
RETRY_AFTER = 30.0
"""Seconds to wait after MLflow's first failure (our choice): a server that hangs must not slow a stage down."""
SLOW, REST = 1.0, 20.0
"""A call of more than SLOW seconds is followed by a pause of REST times its duration (our choice), so that MLflow takes
at most 5 % of the time."""
RUN_KEY = "line.run"
"""Name of the tag by which a run is found before MLflow has returned its id."""
METRICS_PER_BATCH = 1000


class StageRun:
    """The MLflow run of a stage; it is created as soon as MLflow answers.

    Every record carries its time and waits, in memory and in a file, until MLflow has accepted it: if MLflow is slow or
    down, the stage sees no error and loses little time, and a kill loses no record. After a failure nothing is sent for
    RETRY_AFTER seconds, after the next for twice that, ...; after a slow call, for REST times its duration.
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
            self._quiet_until = 0.0  # the first call creates tables; its duration does not predict the next

    def params(self, values: Mapping[str, Any]) -> None:
        """Record settings; keys of nested ones become `augmentation.online.trunks`."""
        for part in runs.parts_of(list(runs.flatten(values).items()), PARAMS_PER_BATCH):
            self._record({"params": part})

    def tags(self, values: Mapping[str, str]) -> None:
        for part in runs.parts_of(list(values.items()), PARAMS_PER_BATCH):
            self._record({"tags": part})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record the named numbers of one step, nan and infinity included, in one call to MLflow."""
        made = connection.now()
        numbers = [(name, float(value), made, step) for name, value in values.items()]
        for part in runs.parts_of(numbers, METRICS_PER_BATCH):
            self._record({"metrics": part})

    def file(self, path: Path) -> None:
        """Record a file under its own name, with the content that it has now."""
        self._record({"file": str(path)})

    def end(self, status: Status) -> None:
        """Close the run after a last attempt to send everything that waits."""
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
        """Send everything that waits, oldest first; stop at the first error."""
        began = time.monotonic()
        try:
            client = connection.connect()
            self.run_id = self.run_id or open_run(client, self._header, again=self._warned)
            self._waiting = files_last(self._waiting)
            hand_over(client, self.run_id, self._waiting)
            self._spool.clear()
            took = time.monotonic() - began
            self._quiet_until = time.monotonic() + REST * took if took > SLOW else 0.0
        except Exception as error:  # a server, a database or a file store (boto3, for one) may raise any exception
            self._quiet_until, self._rest = time.monotonic() + self._rest, 2 * self._rest
            self._copy_files()
            if not self._warned:
                connection.warn(f"MLflow takes no records of {self.name} at the moment", error)
            self._warned = True

    def _keep(self, record: Record) -> None:
        """Write the record to disk before it is sent; if the disk fails, it waits in memory only."""
        try:
            self._spool.add(record)
        except OSError as error:
            if not self._unkept:
                connection.warn(f"records of {self.name} wait in memory only", error)
            self._unkept = True

    def _copy_files(self) -> None:
        """Copy the files that wait, so that they keep their content if the next stage overwrites them."""
        for record in self._waiting:
            if "file" in record and "copied" not in record:
                with suppress(OSError):  # then the file is sent with the content that it has by then
                    record |= {"file": str(self._spool.copy(Path(record["file"]))), "copied": True}
                    self._keep(record)


def open_run(client: MlflowClient, header: Record, *, again: bool) -> str:
    """Create the run of a header and return its id; with `again`, first search for it, as it may exist already."""
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
    """Move files to the end, so that a store that fails on files still gets the numbers and the run's end."""
    return deque(sorted(records, key=lambda record: "file" in record))


def hand_over(client: MlflowClient, run_id: str, waiting: deque[Record]) -> None:
    """Send the waiting records, oldest first, and remove those that were accepted or refused for good.

    Raises any other error of MLflow; the records that remain then wait for the next attempt.
    """
    while waiting:
        for _ in range(deliver_next(client, run_id, waiting)):
            waiting.popleft()


def deliver_next(client: MlflowClient, run_id: str, waiting: Sequence[Record]) -> int:
    """Send the oldest record, or several in one call if they hold metrics; return how many are dealt with."""
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
            if error.error_code not in PERMANENT_ERRORS:
                raise  # otherwise one of them is refused; sending them one by one shows which
    deliver_one(client, run_id, waiting[0])
    return 1


def deliver(client: MlflowClient, run_id: str, record: Record) -> None:
    """Send a record. Sending it twice does no harm, because MLflow keeps equal records once."""
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
    """Send one record; drop it with a warning if MLflow would always refuse it."""
    try:
        deliver(client, run_id, record)
    except FileNotFoundError as error:
        connection.warn("a file was gone before MLflow had it", error)
    except MlflowException as error:
        if error.error_code not in PERMANENT_ERRORS:
            raise
        connection.warn("MLflow refused a record", error)
    except requests.HTTPError as error:
        if error.response is None or error.response.status_code != TOO_LARGE:
            raise
        connection.warn("a server in front of MLflow takes no file of this size", error)


def settle() -> None:
    """Send the records that earlier runs left in the spool, then end the runs whose process is gone.

    Called once at the start of a flow or stage; if MLflow does not answer, the records wait for the next start.
    """
    with connection.failure_as_warning("what earlier runs left"):
        client = connection.connect()
        connection.experiment_id(client)  # fails at once if MLflow does not answer, not once for each run
        for left in leftovers():
            if left.header.get("store", connection.store()) != connection.store():
                continue  # these records are for another store
            try:
                hand_over(client, open_run(client, left.header, again=True), files_last(left.records))
                left.delete()
            except Exception as error:  # any exception, as in `StageRun`; other runs' records are still sent
                connection.warn(f"MLflow does not take what {left.header['name']} left", error)
        reap()


def reap() -> list[str]:
    """Mark as KILLED every run that is RUNNING although its process is gone; return their ids."""
    client = connection.connect()
    running = client.search_runs([connection.experiment_id(client)], "attributes.status = 'RUNNING'")
    gone = [run.info.run_id for run in running if processes.is_gone(run.data.tags)]
    for run_id in gone:
        client.set_terminated(run_id, "KILLED", connection.now())
    return gone
