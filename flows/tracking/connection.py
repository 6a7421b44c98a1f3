"""Find MLflow's store and connect to it. Only this package imports mlflow."""

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
"""Exceptions that mean MLflow failed: its own, those of its database, of the disk or network, and a missing library
for its file store."""
PATIENCE = 120.0
"""Seconds to wait while another process creates the tables (our choice): that takes 3, or 30 on a loaded machine."""
NOTE = "mlflow.note.content"
"""Name of the tag with the Markdown text that the UI shows on top of a run or an experiment."""
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
"""MLflow's settings, unless the environment sets others. MLflow's own default is 7 retries of 120 s for a call."""

SQLITE = "sqlite:///"
TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
DATABRICKS = ("databricks", "databricks-uc", "uc")
"""Addresses that look like a path but are none."""
PASSWORD = re.compile(r"//[^\s\"']*@")
"""Matches user and password in an address, which are never shown. It ends at the last @, because a password may
contain an @ or a slash."""
CAUSE = re.compile(r"\[Errno -?\d+\] ([^\"'()\[\]]+)|(Read timed out)")
"""Matches the cause in an error message of `requests`, which otherwise repeats the address three times."""

LOG = logging.getLogger(__name__)


def tracking_uri() -> str:
    """Return the address of the store that keeps the runs."""
    return addresses(Path())[TRACKING]


def addresses(checkout: Path) -> dict[str, str]:
    """Return environment variable -> address, for the runs and, if one is set, for the registry.

    The default is a SQLite file under mlflow/store. Relative paths are resolved against `checkout`, so that a
    deployment, which works in another folder, uses the same file.
    """
    own = {name: os.environ[name] for name in (TRACKING, REGISTRY) if os.environ.get(name)}
    given = {TRACKING: f"{SQLITE}{(paths.STORE / 'mlflow.db').as_posix()}"} | own
    return {name: absolute(uri, checkout) for name, uri in given.items()}


def absolute(uri: str, folder: Path) -> str:
    """Resolve the path in the address of a SQLite file or of a folder against `folder`; keep any other address."""
    if uri.startswith(SQLITE):
        path = uri.removeprefix(SQLITE)
        return f"{SQLITE}{(folder / path).resolve().as_posix()}" if path else uri
    return uri if ":" in uri or uri in DATABRICKS else (folder / uri).resolve().as_posix()


def store() -> str:
    """Return an identifier of the store: a hash, because the address may hold a password."""
    return hashlib.sha256(tracking_uri().encode()).hexdigest()[:16]


def database() -> Path | None:
    """Return the store's SQLite file, or None if the store is a server."""
    uri = tracking_uri()
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def connect() -> MlflowClient:
    """Return a client of the store, which is created on first use. Raises one of ERRORS."""
    uri = tracking_uri()
    if file := database():
        prepare_sqlite(file)
    client = client_of(uri)
    if mlflow.get_tracking_uri() != uri:  # the SQL registry asks this global for the model behind a version
        with keep_variable("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(uri)
    return client


@cache
def client_of(uri: str) -> MlflowClient:
    """Return the process's client of a store; there is only one for each store, and so one connection pool."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if registry := addresses(Path()).get(REGISTRY):
        os.environ[REGISTRY] = registry  # MLflow reads it in several places
    for name in ("mlflow", "alembic"):  # they log every table they create, and print tracebacks before raising
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(uri)


@contextmanager
def keep_variable(name: str) -> Iterator[None]:
    """Restore an environment variable after the block: MLflow exports its address, which is wrong in another folder."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def prepare_sqlite(file: Path) -> None:
    """Create the tables and turn on write-ahead logging, so that the UI and the writer do not block each other."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        create_tables(file)
    connection = sqlite3.connect(file)
    try:
        with suppress(sqlite3.OperationalError):  # another process uses the file; without it all is only slower
            connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def create_tables(file: Path) -> None:
    """Create the file with all its tables at once: MLflow cannot continue a creation that a kill interrupted."""
    draft = file.parent / ".draft"
    with FileLock(file.with_name(".draft.lock"), timeout=PATIENCE):
        if not file.exists():
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            client_of(f"sqlite:///{(draft / file.name).resolve().as_posix()}").search_experiments(max_results=1)
            write_bytes(file, (draft / file.name).read_bytes())
            shutil.rmtree(draft)


def experiment_id(client: MlflowClient) -> str:
    """Return the id of the line's experiment, creating or restoring it if needed.

    Its artifacts lie beside the SQLite file, or where the server keeps them.
    """
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        file = database()
        location = (file.parent / "artifacts").resolve().as_uri() if file else None
        return str(client.create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


@contextmanager
def failure_as_warning(what: str) -> Iterator[None]:
    """Turn any error in the block into a warning that names what was not recorded; the work continues."""
    try:
        yield
    except Exception as error:  # a server, a database or a file store may raise any exception
        warn(f"MLflow did not record {what}", error)


def reason_of(error: Exception) -> str:
    """Return the first informative line of the error; SQLAlchemy may put a remark in brackets before it."""
    lines = PASSWORD.sub("//", str(error)).strip().splitlines()
    return next((line for line in lines if not line.startswith("(raised as a result of")), type(error).__name__)


def cause_of(error: Exception) -> str:
    """Return the reason in a few words: the system's message about the connection, else the first sentence."""
    reason = reason_of(error)
    if found := CAUSE.search(reason):
        return (found[1] or found[2]).strip()
    return reason.partition(". ")[0].rstrip(".")


def warn(what: str, error: Exception) -> None:
    reason = reason_of(error)
    LOG.warning("warning: %s (%s); the work goes on, the results on disk are complete", what, reason)


def now() -> int:
    """Return the time in milliseconds since 1970, as MLflow expects it."""
    return time.time_ns() // 1_000_000
