"""Check what an ingest needs before it reads the first image."""

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.settings.params import Params
from components.settings.require import require
from flows.checkout import commits, ownership, paths, versions

ROOM = 150 << 20
"""Bytes that a run writes besides images (our estimate): results, models, MLflow's records. DVC copies them once."""
LOOK = 1.0
"""Seconds for measuring the size of a source; for a larger source, only the files seen by then are counted."""
GIGABYTE = 1 << 30


def require_data_ready(params: Params) -> None:
    """Check that an ingest can write its folders, that DVC and git allow it, and that the disk has enough room.

    Raises ValueError (VersionsError is one) on the first problem."""
    commits.warn_of_git()
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
    """Raise ValueError if the disks of the checkout and of DVC's cache cannot hold what the line will write."""
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
    """Return the number of images and bytes below a file or folder, counted for at most `LOOK` seconds."""
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
