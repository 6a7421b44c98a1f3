"""Check before the first image is read that everything the line will need can be used.

Each check raises ValueError (VersionsError is one) with what is wrong and what to do; if all is well, it is quick.
"""

import re
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from components.settings.params import Params
from flows.checkout import ownership, paths, readiness, versions


def require_ready(params: Params) -> None:
    """Check what the ingest and the steps after it need: the stages' outputs, MLflow's registry, Prefect.

    Raises ValueError on the first problem."""
    readiness.require_data_ready(params)
    for place in (paths.PREPARED, paths.RESULTS, paths.CHECKPOINTS, paths.STORE, paths.SPOOL):
        ownership.require_no_link(place)
        versions.require_writable(place)
    ownership.require_own_outputs()
    require_registry(params.publish.model)
    require_prefect()


def require_registry(model: str) -> None:
    """Raise ValueError if MLflow cannot be reached, or has no registry that the gate could use."""
    from flows.tracking import readiness  # loads MLflow, which takes seconds that an ingest alone does not need

    readiness.require_usable(model)


def require_prefect() -> None:
    """Raise ValueError if Prefect's own server, which a run starts without PREFECT_API_URL, could not start."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    require_home(settings.home)
    if settings.api.url is not None:
        return  # that server has its own database; if it is down, the run fails at once
    address = settings.server.database.connection_url
    uri = address.get_secret_value() if address else f"sqlite+aiosqlite:///{settings.home}/prefect.db"
    database = Path(uri.partition("///")[2].partition("?")[0])
    if "sqlite" in uri and database.is_file():
        require_known_revision(database)


def require_home(home: Path) -> None:
    """Raise ValueError unless Prefect's folder is writable. Tries it, because for root every folder looks writable."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return
    except OSError as error:
        raise ValueError(
            f"Prefect cannot write to its folder {home} ({error.strerror}); set PREFECT_HOME to a folder of yours, "
            'such as "$PWD/.prefect"'
        ) from None


def require_known_revision(database: Path) -> None:
    """Raise ValueError if a later version of Prefect made the database: Prefect would fail on it and not say why."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            found: Sequence[tuple[str]] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "locked" in str(error):
            return  # the database is new or in use: Prefect creates its tables, or waits
        raise ValueError(unusable(database, str(error))) from None
    except sqlite3.DatabaseError as error:
        raise ValueError(unusable(database, str(error))) from None
    known = revisions()
    if unknown := [revision for (revision,) in found if revision not in known]:
        raise ValueError(unusable(database, f"it is of another version of Prefect, revision {unknown[0]}"))


def unusable(database: Path, why: str) -> str:
    return (
        f"Prefect cannot use its database {database} ({why}); set PREFECT_HOME to another folder, such as "
        '"$PWD/.prefect", or move that file away'
    )


def revisions() -> set[str]:
    """Return the revisions of the database that the installed Prefect knows."""
    package = find_spec("prefect.server.database")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "_migrations" / "versions" / "sqlite"
    texts = (file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    return {found[1] for text in texts if (found := re.search(r"^revision\b.*?[\"'](\w+)[\"']", text, re.MULTILINE))}
