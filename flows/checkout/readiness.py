"""What an ingest needs, asked before the first image is read."""

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
"""Bytes that a run writes beside images (ours): results, models, MLflow's records. As much again is DVC's copy."""
LOOK = 1.0
"""Seconds that the size of a source may take to find; of a larger one, what was seen by then counts."""
GIGABYTE = 1 << 30


def require_data_ready(params: Params) -> None:
    """The places that an ingest writes to, what DVC and git say of them, the source's place, and the room for it."""
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
