"""What happened, in MLflow: runs, metrics, files, data, the registry. The only `import mlflow`.

A stage's tracker never fails the stage: what MLflow does not take now waits (flows/spool.py) and is offered again
later, by this process or the next. The registry is the opposite: publishing *is* MLflow, so errors surface.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeVar
from urllib.parse import quote
from uuid import uuid4

import mlflow
import mlflow.artifacts
import mlflow.onnx
import numpy as np
import onnx
import requests
from filelock import FileLock
from jaxtyping import UInt8
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from sqlalchemy.exc import SQLAlchemyError

from components.settings.params import Params
from flows import lifeline, paths, versions
from flows.cost import CORE_MINUTES
from flows.files import read_json, write_bytes
from flows.spool import Record, Spool, left_behind

T = TypeVar("T")
Status = Literal["FINISHED", "FAILED", "KILLED"]

EXPERIMENT = "assembly-line"
ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
"""How a tracker fails: MLflow's own, the database below it, the disk or network below that, a store of files whose
library is not installed."""
FOR_GOOD = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
"""MLflow's error codes after which the same record is refused every time; after any other, such as those of a token
that ran out or of a server behind another that restarts, it may be taken later."""
TOO_LARGE = 413
"""HTTP: a file that the server in front of MLflow takes no more tomorrow than today."""
RETRY_AFTER = 30.0
"""Seconds a failing tracker is left alone at first (ours): a server that hangs must not slow a stage down."""
SLOW, REST = 1.0, 20.0
"""A tracker that took longer than SLOW seconds is left alone for REST times as long (ours): 5 % of the time at most."""
PATIENCE = 120.0
"""Seconds that one process waits for another to make the tables (ours): 3 is usual, 30 on a loaded machine."""
RUN_KEY = "line.run"
"""Tag: what a run is found by before MLflow has said which id it has."""
SERVED_AT = "http://127.0.0.1:5000"
"""mlflow/serve."""
TRAINING_VIEW = "?workflowType=machine_learning"
"""Of an address in MLflow's UI: its pages for training, where a new browser begins with those for language models."""
NOTE = "mlflow.note.content"
"""Tag: what the UI shows on top of a run or an experiment, Markdown."""
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    NOTE: "A run is a retrain, a nested run a stage; the chart view compares retrains (`headline/...`). "
    "Names of metrics: mlflow/README.md",
}
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""MLflow's settings unless a person's environment says otherwise. Its own patience is 7 retries of 120 s a call."""

SQLITE = "sqlite:///"
TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
DATABRICKS = ("databricks", "databricks-uc", "uc")
"""Addresses that are no path, though they look like one."""
REMEDIES = {
    TRACKING: f"start that server, or set {TRACKING} to one that keeps runs and registered models, or unset it",
    REGISTRY: f"set {REGISTRY} to a registry whose models can be searched by name, or unset it",
}
"""The variable with the address that fails -> what to do."""
OWN_TABLES = {"alembic_version", "experiments", "runs"}
"""Of every database of MLflow's."""
PASSWORD = re.compile(r"//[^\s\"']*@")
"""Of an address: user and password, which nobody is shown. Up to the last @: a password may hold one, or a slash."""
CAUSE = re.compile(r"\[Errno -?\d+\] ([^\"'()\[\]]+)|(Read timed out)")
"""In what `requests` says, which names the address three times."""

LOG = logging.getLogger(__name__)


# ---------------------------------------------------------------- the store


def tracking_uri() -> str:
    """Where runs are kept."""
    return addresses(Path())[TRACKING]


def addresses(checkout: Path) -> dict[str, str]:
    """Environment variable -> address, of the runs and, if a person has set one, of the registry.

    By default a SQLite file under mlflow/store. A relative SQLite address would be another file in every folder, in the
    checkout and where a deployment works: it means the checkout's.
    """
    own = {name: os.environ[name] for name in (TRACKING, REGISTRY) if os.environ.get(name)}
    given = {TRACKING: f"{SQLITE}{(paths.STORE / 'mlflow.db').as_posix()}"} | own
    return {name: absolute(uri, checkout) for name, uri in given.items()}


def absolute(uri: str, folder: Path) -> str:
    """The address of a SQLite file, or of a folder, with its path taken from the folder; any other as it is."""
    if uri.startswith(SQLITE):
        path = uri.removeprefix(SQLITE)
        return f"{SQLITE}{(folder / path).resolve().as_posix()}" if path else uri
    return uri if ":" in uri or uri in DATABRICKS else (folder / uri).resolve().as_posix()


def store() -> str:
    """Tells one store from another, and nothing of it: its address may hold a password."""
    return hashlib.sha256(tracking_uri().encode()).hexdigest()[:16]


def database() -> Path | None:
    """The store's SQLite file, None where it is a server's."""
    uri = tracking_uri()
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def require_usable(model: str) -> None:
    """Ask where runs are kept for the experiment, and the registry for what the gate will ask, with little patience.

    Raises ValueError. A SQLite file that is not there is made when it is needed: that takes seconds.
    """
    registry = REGISTRY if os.environ.get(REGISTRY) else TRACKING
    with impatient():
        with required(TRACKING):
            if file := database():
                require_own_database(file)
                if not file.exists() and registry == TRACKING:
                    return
            client = connect()
            client.get_experiment_by_name(EXPERIMENT)
        with required(registry):
            client.search_registered_models(f"name = '{model}'", max_results=1)
            client.search_model_versions(f"name = '{model}'", max_results=1)


@contextmanager
def required(name: str) -> Iterator[None]:
    """One of ERRORS from the address in the variable becomes a ValueError that says what to do."""
    try:
        yield
    except ERRORS as error:
        own = name == TRACKING and not os.environ.get(TRACKING)
        remedy = "move that file away, or set MLFLOW_TRACKING_URI to a server of yours" if own else REMEDIES[name]
        shown = PASSWORD.sub("//", addresses(Path())[name])
        raise ValueError(
            f"MLflow cannot be used at {shown} ({cause_of(error)}), and no model could be published; {remedy}"
        ) from None


def require_own_database(file: Path) -> None:
    """Raises one of ERRORS where the store's file is another program's, or it or its folder cannot be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=file.parent):
        pass  # tried, since for root every folder looks writable
    if not file.exists():
        return
    if not os.access(file, os.W_OK):
        raise PermissionError("it cannot be written to")
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not tables >= OWN_TABLES:
        raise FileExistsError("it is a database of another program, which MLflow would change")


@contextmanager
def impatient() -> Iterator[None]:
    """One retry instead of several, and no word of it: a person waits."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ.get(name)
    os.environ[name] = "1"
    retries = logging.getLogger("urllib3.connectionpool")
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        yield
    finally:
        retries.setLevel(level)
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def connect() -> MlflowClient:
    """A client of the store, which is created on first use. Raises one of ERRORS."""
    uri = tracking_uri()
    if file := database():
        prepare_sqlite(file)
    client = client_of(uri)
    if mlflow.get_tracking_uri() != uri:  # the SQL registry asks this global for the model behind a version
        with own_environment("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(uri)
    return client


@cache
def client_of(uri: str) -> MlflowClient:
    """One client, and so one connection pool, a process and store."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if registry := addresses(Path()).get(REGISTRY):
        os.environ[REGISTRY] = registry  # MLflow reads it in several places
    for name in ("mlflow", "alembic"):  # they tell of every table they create, and print tracebacks before raising
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(uri)


@contextmanager
def own_environment(name: str) -> Iterator[None]:
    """Keep a variable as it is: MLflow would export its address, which would outlive a change of folder."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def prepare_sqlite(file: Path) -> None:
    """The tables, and write-ahead logging: readers (the UI) and the writer no longer wait for each other."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        create_tables(file)
    connection = sqlite3.connect(file)
    try:
        with suppress(sqlite3.OperationalError):  # someone holds the file: it is only slower without
            connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def create_tables(file: Path) -> None:
    """All tables or no file: MLflow makes them one after the other, and cannot go on where a kill stopped it."""
    draft = file.parent / ".draft"
    with FileLock(file.with_name(".draft.lock"), timeout=PATIENCE):
        if not file.exists():
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            client_of(f"sqlite:///{(draft / file.name).resolve().as_posix()}").search_experiments(max_results=1)
            write_bytes(file, (draft / file.name).read_bytes())
            shutil.rmtree(draft)


def experiment_id(client: MlflowClient) -> str:
    """The one experiment; its artifacts lie beside a SQLite file, or where a server keeps them."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        file = database()
        location = (file.parent / "artifacts").resolve().as_uri() if file else None
        return str(client.create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


@contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Go on without MLflow: one line says what was not recorded."""
    try:
        yield
    except Exception as error:  # as in `StageRun`
        warn(f"MLflow did not record {what}", error)


def reason_of(error: Exception) -> str:
    """The first line that says something; SQLAlchemy may begin with a remark in brackets."""
    lines = PASSWORD.sub("//", str(error)).strip().splitlines()
    return next((line for line in lines if not line.startswith("(raised as a result of")), type(error).__name__)


def cause_of(error: Exception) -> str:
    """The reason in a few words: what the system said of the connection, or else the first sentence."""
    said = reason_of(error)
    if found := CAUSE.search(said):
        return (found[1] or found[2]).strip()
    return said.partition(". ")[0].rstrip(".")


def warn(what: str, error: Exception) -> None:
    reason = reason_of(error)
    LOG.warning("warning: %s (%s); the work goes on, the results on disk are complete", what, reason)


# ---------------------------------------------------------------- runs


def create_run(
    client: MlflowClient, name: str, tags: Mapping[str, str], parent: str | None = None, started: int | None = None
) -> str:
    """Start a run now. No tag names the user, the host or a path; MLflow would say who and where by itself."""
    own = {"mlflow.source.name": f"assembly line: {name}", "mlflow.source.type": "JOB"}
    if tags.get("git.commit", versions.UNKNOWN) != versions.UNKNOWN:
        own["mlflow.source.git.commit"] = tags["git.commit"]
    if parent is not None:
        own["mlflow.parentRunId"] = parent
    run = client.create_run(experiment_id(client), start_time=started or now(), tags=own | dict(tags), run_name=name)
    return str(run.info.run_id)


def now() -> int:
    """Milliseconds since 1970, MLflow's time."""
    return time.time_ns() // 1_000_000


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
            "tags": {**(tags or {}), RUN_KEY: self.key, **lifeline.tags()},
            "started": now(),
            "store": store(),
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
        for part in parts_of(list(flatten(values).items()), PARAMS_PER_BATCH):
            self._record({"params": part})

    def tags(self, values: Mapping[str, str]) -> None:
        for part in parts_of(list(values.items()), PARAMS_PER_BATCH):
            self._record({"tags": part})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Named numbers of one step, nan and infinity included, in one call to MLflow."""
        made = now()
        numbers = [(name, float(value), made, step) for name, value in values.items()]
        for part in parts_of(numbers, METRICS_PER_BATCH):
            self._record({"metrics": part})

    def file(self, path: Path) -> None:
        """A written file, under its own name and as it is now."""
        self._record({"file": str(path)})

    def end(self, status: Status) -> None:
        """Close the run, after a last attempt at everything that waits."""
        self._record({"end": status, "time": now()}, at_once=True)
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
            client = connect()
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
                warn(f"MLflow takes no records of {self.name} at the moment", error)
            self._warned = True

    def _keep(self, record: Record) -> None:
        """On disk before it is offered; where the disk takes nothing either, in memory."""
        try:
            self._spool.add(record)
        except OSError as error:
            if not self._unkept:
                warn(f"records of {self.name} wait in memory only", error)
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
    found = client.search_runs([experiment_id(client)], f"tags.`{RUN_KEY}` = '{key}'", max_results=1) if again else []
    if found:
        return str(found[0].info.run_id)
    return create_run(client, header["name"], header["tags"], header["parent"], header["started"])


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
        warn("a file was gone before MLflow had it", error)
    except MlflowException as error:
        if error.error_code not in FOR_GOOD:
            raise
        warn("MLflow refused a record", error)
    except requests.HTTPError as error:
        if error.response is None or error.response.status_code != TOO_LARGE:
            raise
        warn("a server in front of MLflow takes no file of this size", error)


def settle() -> None:
    """Hand over what earlier runs left in the spool, then end the runs whose process is gone.

    Once at the start of a flow or stage; without MLflow it waits for the next time.
    """
    with tolerated("what earlier runs left"):
        client = connect()
        experiment_id(client)  # it answers: else each of them would wait for that
        for left in left_behind():
            if left.header.get("store", store()) != store():
                continue  # for another one
            try:
                hand_over(client, open_run(client, left.header, again=True), files_last(left.records))
                left.taken()
            except Exception as error:  # as in `StageRun`; the others' records do not wait for these
                warn(f"MLflow does not take what {left.header['name']} left", error)
        reap()


def reap() -> list[str]:
    """End, as KILLED, every run that says RUNNING and whose process is gone; returns their ids."""
    client = connect()
    running = client.search_runs([experiment_id(client)], "attributes.status = 'RUNNING'")
    gone = [run.info.run_id for run in running if lifeline.is_gone(run.data.tags)]
    for run_id in gone:
        client.set_terminated(run_id, "KILLED", now())
    return gone


def parts_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"loss": {"knots": 10}}` -> `{"loss.knots": "10"}`; lists as JSON; of an absolute path only the last name."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = without_folder(value) if isinstance(value, str) else json.dumps(value)
    return flat


def without_folder(text: str) -> str:
    """An absolute path says where and whose a machine is: only its last name leaves it."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute():
            return kind(text).name
    return text


@contextmanager
def parent_run(name: str, tags: Mapping[str, str]) -> Iterator[str | None]:
    """The run that stage runs nest in: its id, None if MLflow takes none; always closed with how the block ended."""
    run_id = open_parent(name, tags)
    status: Status = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    except Exception:
        raise
    except BaseException:  # Ctrl-C, a cancelled flow
        status = "KILLED"
        raise
    finally:
        close_run(run_id, status)


def open_parent(name: str, tags: Mapping[str, str]) -> str | None:
    with tolerated(f"the run {name}"):
        return create_run(connect(), name, {**tags, **lifeline.tags()})
    return None


def close_run(run_id: str | None, status: Status) -> None:
    if run_id is not None:
        with tolerated("the end of the run"):
            connect().set_terminated(run_id, status, now())


def archive(run_id: str | None, files: Iterable[Path]) -> None:
    """Keep whole files (params.yaml, dvc.yaml, dvc.lock) with the run; one that is not there is left out."""
    for file in files if run_id is not None else ():
        with tolerated(file.name), suppress(FileNotFoundError):
            connect().log_artifact(run_id, str(file))


def run_page(run_id: str, artifact: str = "") -> str:
    """The run's page, or an artifact on it, as a link inside MLflow's UI."""
    within = f"/artifacts/{quote(artifact)}" if artifact else ""
    folder = f"#/experiments/{connect().get_run(run_id).info.experiment_id}/runs"
    return f"{folder}/{run_id}{within}{TRAINING_VIEW}"


def version_page(name: str, version: str) -> str:
    """The model version's page, as a link inside MLflow's UI."""
    return f"#/models/{quote(name, safe='')}/versions/{version}{TRAINING_VIEW}"


def address_of(page: str) -> str:
    """Where a browser sees a page of the UI: on the tracking server, or on the one that `mlflow/serve` starts."""
    uri = tracking_uri()
    server = PASSWORD.sub("//", uri).rstrip("/") if uri.startswith(("http://", "https://")) else SERVED_AT
    return f"{server}/{page}"


def find_stage_run(stage_key: str) -> str | None:
    """The newest FINISHED run of a stage with exactly these inputs."""
    return find_run("stage_key", stage_key)


def find_run(tag: str, value: str) -> str | None:
    """The newest FINISHED run that carries the tag, such as `dvc.out.<path>` with an output's md5."""
    client = connect()
    runs = client.search_runs(
        [experiment_id(client)],
        f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
        max_results=1,
    )
    return str(runs[0].info.run_id) if runs else None


def core_minutes(stage_key: str) -> float | None:
    """What the newest results with these inputs cost, with the runs before it that were interrupted on the way there;
    None if that was not recorded. A run that was killed by force says nothing of its share."""
    client = connect()
    where = f"tags.stage_key = '{stage_key}'"
    runs = client.search_runs([experiment_id(client)], where, order_by=["attributes.start_time DESC"])
    ended = next((place for place, run in enumerate(runs) if run.info.status == "FINISHED"), None)
    if ended is None or CORE_MINUTES not in runs[ended].data.metrics:
        return None
    earlier = takewhile(lambda run: run.info.status != "FINISHED", runs[ended + 1 :])
    return sum(float(run.data.metrics.get(CORE_MINUTES, 0.0)) for run in (runs[ended], *earlier))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that ended well."""

    run_id: str
    name: str
    tags: Mapping[str, str]


def finished_runs(tag: str, value: str) -> list[Finished]:
    """Every FINISHED run that carries the tag, the newest first."""
    client = connect()
    where = f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment_id(client)], where, order_by=["attributes.end_time DESC"])
    return [Finished(run_id=run.info.run_id, name=run.info.run_name, tags=run.data.tags) for run in found]


def artifact(run_id: str, name: str) -> bytes | None:
    """A file that was kept with the run, None if it was not, or the run is gone."""
    with tempfile.TemporaryDirectory() as folder, suppress(*ERRORS):
        return Path(connect().download_artifacts(run_id, name, folder)).read_bytes()
    return None


def data_digests(run_id: str) -> list[str]:
    """DVC's md5 of each data set that the run took in."""
    with suppress(*ERRORS):
        inputs = connect().get_run(run_id).inputs
        return [str(one.dataset.digest) for one in inputs.dataset_inputs] if inputs else []
    return []


def link_stage(parent: str | None, name: str, lock: versions.Lock | None) -> None:
    """Say on the parent which run made a stage's results: its own, or an earlier one that DVC reused."""
    if parent is None or lock is None:
        return
    with tolerated(f"the link to {name}"):
        client = connect()
        run_id = find_stage_run(versions.stage_key(lock))
        executed = run_id is not None and client.get_run(run_id).data.tags.get("mlflow.parentRunId") == parent
        key = f"stage.{name.replace('@', '.')}"  # MLflow takes no @ in a tag's name
        tag_run(parent, {key: "executed" if executed else "cached", f"{key}.run": run_id or "none"})


def log_data(run_id: str | None, params: Params, digest: str) -> None:
    """The data version as the run's input: DVC's md5, where it came from, images a class."""
    if run_id is None:
        return
    source = without_folder(params.data.path) if params.data.path else params.data.source
    with tolerated("the data set"):
        classes = read_json(paths.VALIDATION)["classes"]
        counts = {name: parts["kept"] for name, parts in classes.items()}
        log_data_input(connect(), run_id, name=params.publish.model, digest=digest, source=source, counts=counts)


def log_data_input(
    client: MlflowClient, run_id: str, *, name: str, digest: str, source: str, counts: Mapping[str, int]
) -> None:
    """A data set input; `digest` is DVC's md5 (at most 36 characters), `source` no absolute path."""
    dataset = Dataset(
        name=name,
        digest=digest,
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"images": sum(counts.values()), "classes": counts}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


# ---------------------------------------------------------------- the registry


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A registered model as it comes out of the registry."""

    version: str
    md5: str
    """As noted when it was registered."""
    model: bytes
    """The ONNX file."""


def md5_of(content: bytes) -> str:
    """DVC's hash of a file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def find_version(name: str, md5: str) -> str | None:
    """The registered version that holds exactly this file."""
    found = connect().search_model_versions(f"name = '{name}' and tags.md5 = '{md5}'")
    return min((str(version.version) for version in found), key=int, default=None)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An ONNX file with what the registry shows beside it."""

    model: bytes
    example: UInt8[np.ndarray, "n h w c"]
    """Real images: how the model is called."""
    requirements: tuple[str, ...]
    """What a server of the model installs; MLflow adds itself."""
    providers: tuple[str, ...]
    """ONNX Runtime's execution providers, the preferred first."""


def register_model(name: str, candidate: Candidate, run_id: str) -> str:
    """Make the file the next version of `name`, or find the version that it already is. Raises one of ERRORS."""
    md5 = md5_of(candidate.model)
    if existing := find_version(name, md5):
        return existing
    client = connect()
    model_id = log_model(client, name, candidate, run_id)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, f"models:/{model_id}", run_id, tags={"md5": md5}, model_id=model_id)
    return str(version.version)


def log_model(client: MlflowClient, name: str, candidate: Candidate, run_id: str) -> str:
    """The file as a model of the run; returns the model's id. A crash leaves it PENDING and unregistered."""
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment, name, run_id, tags={"md5": md5_of(candidate.model)})
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        save_model(candidate, target, Model(run_id=run_id, model_id=logged.model_id, model_uuid=logged.model_id))
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def save_model(candidate: Candidate, folder: Path, record: Model) -> None:
    """MLflow's model folder around the very bytes of the ONNX file."""
    proto = onnx.load_from_string(candidate.model)  # fresh: MLflow empties a ModelProto that it saves twice
    mlflow.onnx.save_model(
        proto,
        folder,
        mlflow_model=record,
        signature=ModelSignature(inputs=schema_of(proto.graph.input), outputs=schema_of(proto.graph.output)),
        input_example={proto.graph.input[0].name: np.ascontiguousarray(candidate.example)},
        pip_requirements=list(candidate.requirements),
        onnx_execution_providers=list(candidate.providers),
        save_as_external_data=False,
    )
    (folder / "model.onnx").write_bytes(candidate.model)


def schema_of(values: Iterable[onnx.ValueInfoProto]) -> Schema:
    """Names, types and shapes of a graph's inputs or outputs; a free dimension is -1."""
    return Schema([tensor_spec(value) for value in values])


def tensor_spec(value: onnx.ValueInfoProto) -> ColSpec | TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim)
    return TensorSpec(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape, value.name)


def alias_version(name: str, alias: str) -> str | None:
    """The version that `alias` points at, None if it points nowhere."""
    models = connect().search_registered_models(f"name = '{name}'")
    version = models[0].aliases.get(alias) if models else None
    return None if version is None else str(version)


def load_by_alias(name: str, alias: str) -> Shipped | None:
    """What `models:/<name>@<alias>` gives a user now, None if the alias points nowhere."""
    version = alias_version(name, alias)
    return None if version is None else load_model(name, version, f"models:/{name}@{alias}")


def load_version(name: str, version: str) -> Shipped:
    """A version's file."""
    return load_model(name, version, f"models:/{name}/{version}")


def load_model(name: str, version: str, uri: str) -> Shipped:
    client = connect()
    tags = client.get_model_version(name, version).tags
    with tempfile.TemporaryDirectory() as folder:
        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=tracking_uri())
        flavour = Model.load(folder).flavors["onnx"]
        return Shipped(version=version, md5=tags.get("md5", ""), model=(Path(folder) / flavour["data"]).read_bytes())


def tag_run(run_id: str, tags: Mapping[str, str]) -> None:
    connect().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def move_alias(name: str, alias: str, version: str) -> None:
    """Point the alias at the version, in one transaction."""
    connect().set_registered_model_alias(name, alias, version)


def drop_alias(name: str, alias: str) -> None:
    """Let the alias point nowhere."""
    connect().delete_registered_model_alias(name, alias)


def version_numbers(name: str) -> set[int]:
    """Of all its versions that there are."""
    return {int(one.version) for one in connect().search_model_versions(f"name = '{name}'")}


def version_tags(name: str, version: str) -> dict[str, str]:
    return dict(connect().get_model_version(name, version).tags)


def tag_version(name: str, version: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        connect().set_model_version_tag(name, version, key, value)


def retag_version(name: str, version: str, tags: Mapping[str, str], prefix: str) -> None:
    """Set the tags, and remove others that begin with `prefix`: what an earlier decision said."""
    for key in version_tags(name, version):
        if key.startswith(prefix) and key not in tags:
            connect().delete_model_version_tag(name, version, key)
    tag_version(name, version, tags)


def run_tags(run_id: str) -> dict[str, str]:
    return dict(connect().get_run(run_id).data.tags)


def linked_stages(run_id: str) -> dict[str, tuple[str, str]]:
    """What `link_stage` said on the run: stage -> executed or cached, and the run that made its results."""
    tags = run_tags(run_id)
    stages = [key.removesuffix(".run") for key in tags if re.fullmatch(r"stage\..+\.run", key)]
    made = {key: (tags[key], tags[f"{key}.run"]) for key in stages if tags[f"{key}.run"] != "none"}
    return {key.removeprefix("stage.").replace(".", "@", 1): of for key, of in made.items()}


def describe(run_id: str, text: str) -> None:
    """What the UI shows on top of the run, Markdown."""
    connect().set_tag(run_id, NOTE, text)


def describe_version(name: str, version: str, text: str) -> None:
    """What the UI shows on top of the model version, Markdown."""
    connect().update_model_version(name, version, text)


def describe_model(name: str, text: str) -> None:
    """What the UI shows on top of the registered model, Markdown; a person's own words stay."""
    client = connect()
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, text)


def log_metrics(run_id: str, values: Mapping[str, float]) -> None:
    """Numbers of the whole run."""
    made = now()
    connect().log_batch(run_id, metrics=[Metric(name, value, made, 0) for name, value in values.items()])


def log_settings(run_id: str | None, values: Mapping[str, Any]) -> None:
    """params.yaml as the run's parameters, to compare runs by."""
    if run_id is None:
        return
    with tolerated("the settings"):
        for part in parts_of(list(flatten(values).items()), PARAMS_PER_BATCH):
            connect().log_batch(run_id, params=[Param(*one) for one in part])


def log_text(run_id: str, text: str, name: str) -> None:
    """A text artifact of the run."""
    connect().log_text(run_id, text, name)


def log_bytes(run_id: str, content: bytes, name: str) -> None:
    """An artifact of the run; `name` may lie in folders."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PurePosixPath(name).name
        file.write_bytes(content)
        connect().log_artifact(run_id, str(file), str(PurePosixPath(name).parent))


def log_json(run_id: str, value: Any, name: str) -> None:
    """A JSON artifact of the run."""
    connect().log_dict(run_id, value, name)
