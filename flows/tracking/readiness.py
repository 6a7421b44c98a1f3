"""Whether MLflow can be used, asked before the work begins."""

import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from flows.tracking import connection
from flows.tracking.connection import ERRORS, EXPERIMENT, PASSWORD, REGISTRY, TRACKING

REMEDIES = {
    TRACKING: f"start that server, or set {TRACKING} to one that keeps runs and registered models, or unset it",
    REGISTRY: f"set {REGISTRY} to a registry whose models can be searched by name, or unset it",
}
"""The variable with the address that fails -> what to do."""
OWN_TABLES = {"alembic_version", "experiments", "runs"}
"""Of every database of MLflow's."""


def require_usable(model: str) -> None:
    """Ask where runs are kept for the experiment, and the registry for what the gate will ask, with little patience.

    Raises ValueError. A SQLite file that is not there is made when it is needed: that takes seconds.
    """
    registry = REGISTRY if os.environ.get(REGISTRY) else TRACKING
    with impatient():
        with required(TRACKING):
            if file := connection.database():
                require_own_database(file)
                if not file.exists() and registry == TRACKING:
                    return
            client = connection.connect()
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
        shown = PASSWORD.sub("//", connection.addresses(Path())[name])
        raise ValueError(
            f"MLflow cannot be used at {shown} ({connection.cause_of(error)}), and no model could be published; "
            f"{remedy}"
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
