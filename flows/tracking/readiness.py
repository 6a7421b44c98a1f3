"""Check that MLflow can be used before the work begins."""

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
"""Environment variable that holds the failing address -> what to do."""
OWN_TABLES = {"alembic_version", "experiments", "runs"}
"""Tables that every MLflow database has."""


def require_usable(model: str) -> None:
    """Make the queries that the runs and the gate will need, with a short wait. Raises ValueError if one fails.

    A missing SQLite file is no error: it is created when it is first needed, which takes seconds.
    """
    registry = REGISTRY if os.environ.get(REGISTRY) else TRACKING
    with one_retry():
        with failure_as_sentence(TRACKING):
            if file := connection.database():
                require_own_database(file)
                if not file.exists() and registry == TRACKING:
                    return
            client = connection.connect()
            client.get_experiment_by_name(EXPERIMENT)
        with failure_as_sentence(registry):
            client.search_registered_models(f"name = '{model}'", max_results=1)
            client.search_model_versions(f"name = '{model}'", max_results=1)


@contextmanager
def failure_as_sentence(name: str) -> Iterator[None]:
    """Turn one of ERRORS, raised for the address in the variable, into a ValueError that says what to do."""
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
    """Raise one of ERRORS if the store's file belongs to another program, or it or its folder is not writable."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=file.parent):
        pass  # tries it, because for root every folder looks writable
    if not file.exists():
        return
    if not os.access(file, os.W_OK):
        raise PermissionError("it cannot be written to")
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not tables >= OWN_TABLES:
        raise FileExistsError("it is a database of another program, which MLflow would change")


@contextmanager
def one_retry() -> Iterator[None]:
    """Limit MLflow to one silent retry within the block, because a person is waiting."""
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
