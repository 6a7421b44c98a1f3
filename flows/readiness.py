"""What can fail at the end is asked at the beginning: before the first image is read, is everything usable?

Each check raises ValueError (VersionsError is one) with what is wrong and what to do; where all is well it is quick.
"""

import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.settings.params import Params
from components.settings.require import require
from flows import ownership, paths, versions

ROOM = 150 << 20
"""Bytes that a run writes beside images (ours): results, models, MLflow's records. As much again is DVC's copy."""
LOOK = 1.0
"""Seconds that the size of a source may take to find; of a larger one, what was seen by then counts."""
GIGABYTE = 1 << 30


# ---------------------------------------------------------------- before an ingest


def require_data_ready(params: Params) -> None:
    """The places that an ingest writes to, what DVC and git say of them, the source's place, and the room for it."""
    versions.warn_of_git()
    for pointer in paths.DATA.values():
        if pointer.exists():
            versions.data_digest(pointer)
    ownership.require_own_raw()
    ownership.require_no_link(paths.SPLIT)
    ownership.require_apart(params.data.path)
    versions.require_writable(paths.RAW.parent)
    versions.require_repository(*paths.DATA)
    require_room(params)


def require_room(params: Params) -> None:
    """Raise ValueError where the disks of the checkout and of DVC's cache cannot hold what the line will write."""
    count, size = size_of(Path(params.data.path)) if params.data.path else (0, 0)
    needed = size + count * 3 * params.data.size**2 + ROOM
    disks: dict[int, list[Path]] = defaultdict(list)
    for place in (Path.cwd(), versions.cache_of(Path())):
        there = next(one for one in (place, *place.parents) if one.exists())
        disks[there.stat().st_dev].append(there)
    for places in disks.values():
        wanted, free = needed * len(places), shutil.disk_usage(places[0]).free
        require(
            wanted <= free,
            f"the line will write about {wanted / GIGABYTE:.1f} GB to the disk of {places[0]}, which has "
            f"{free / GIGABYTE:.1f} GB left; make room, or move DVC's cache to another disk: `dvc cache dir PATH`",
        )


def size_of(source: Path) -> tuple[int, int]:
    """Images and bytes below a file or folder, as far as one can count in `LOOK` seconds."""
    count = size = 0
    end = time.monotonic() + LOOK
    for file in files_below(source):
        try:
            size += file.stat().st_size
            count += pq.read_metadata(file).num_rows if file.suffix == ".parquet" else 1
        except (OSError, pa.ArrowException):
            continue  # the ingest says what is wrong with it
        if time.monotonic() > end:
            break
    return count, size


def files_below(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    for folder, _, names in os.walk(source):
        yield from (Path(folder, name) for name in names)


# ---------------------------------------------------------------- before a retrain


def require_ready(params: Params) -> None:
    """What an ingest needs, and what comes after it: the stages and their outputs, MLflow's registry, Prefect."""
    require_data_ready(params)
    for place in (paths.PREPARED, paths.RESULTS, paths.CHECKPOINTS, paths.STORE, paths.SPOOL):
        ownership.require_no_link(place)
        versions.require_writable(place)
    ownership.require_own_outputs()
    require_registry(params.publish.model)
    require_prefect()


def require_registry(model: str) -> None:
    """Raise ValueError where MLflow cannot be asked, or has no registry that the gate could ask."""
    from flows import tracking  # loads MLflow: seconds that an ingest does not pay

    tracking.require_usable(model)


def require_prefect() -> None:
    """Raise ValueError where Prefect's own server, which a run starts without PREFECT_API_URL, could not start."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    require_home(settings.home)
    if settings.api.url is not None:
        return  # that server has its own database; the run says at once if it is not there
    address = settings.server.database.connection_url
    uri = address.get_secret_value() if address else f"sqlite+aiosqlite:///{settings.home}/prefect.db"
    database = Path(uri.partition("///")[2].partition("?")[0])
    if "sqlite" in uri and database.is_file():
        require_known_revision(database)


def require_home(home: Path) -> None:
    """Prefect's folder can be written to; tried, since for root every folder looks so."""
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
    """Prefect's database is of no later version than Prefect, which could not start on it and would not say why."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            found: Sequence[tuple[str]] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "locked" in str(error):
            return  # new, or in use: Prefect makes it, or waits
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
    """The revisions of the database that the installed Prefect knows."""
    package = find_spec("prefect.server.database")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "_migrations" / "versions" / "sqlite"
    texts = (file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    return {found[1] for text in texts if (found := re.search(r"^revision\b.*?[\"'](\w+)[\"']", text, re.MULTILINE))}
