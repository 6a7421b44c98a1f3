"""Where MLflow keeps runs and models, and the client that asks it. Only this room imports mlflow."""

import hashlib
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import mlflow
import mlflow.artifacts
import mlflow.onnx
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from flows.checkout import paths
from flows.checkout.files import write_bytes

EXPERIMENT = "assembly-line"
ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
"""How a tracker fails: MLflow's own, the database below it, the disk or network below that, a store of files whose
library is not installed."""
PATIENCE = 120.0
"""Seconds that one process waits for another to make the tables (ours): 3 is usual, 30 on a loaded machine."""
NOTE = "mlflow.note.content"
"""Tag: what the UI shows on top of a run or an experiment, Markdown."""
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    NOTE: "A run is a retrain, a nested run a stage; the chart view compares retrains (`headline/...`). "
    "Names of metrics: mlflow/README.md",
}

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
PASSWORD = re.compile(r"//[^\s\"']*@")
"""Of an address: user and password, which nobody is shown. Up to the last @: a password may hold one, or a slash."""
CAUSE = re.compile(r"\[Errno -?\d+\] ([^\"'()\[\]]+)|(Read timed out)")
"""In what `requests` says, which names the address three times."""

LOG = logging.getLogger(__name__)


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


def now() -> int:
    """Milliseconds since 1970, MLflow's time."""
    return time.time_ns() // 1_000_000
