"""What the augmentation search costs, as a multiple of one training on as many images, by copies and by workers.

One training: a network without copies, under as many pairs as a copy commits to, on one thread. A search of N copies
trains N times as many images and scores N + 1 models on val after every trunk; everything above N is overhead. The
search by gradients trains one network and takes a gradient of every element after every trunk, on a twentieth of its
images as in the CIFAR-10 preset (which has a head start of as many images as its trunks, not counted here).
`none` of two workers: two such trainings side by side that never wait for each other, which is all that the machine
gives to two processes. The splits are files that every process maps, as the line's are.
CIFAR-10's images where the parquet file is there, else digits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from components.augmentation.operations import ELEMENTS
from components.augmentation.policy import augment_pairs
from components.augmentation.search import search_augmentation
from components.data.store import Split, open_split, write_split
from components.settings.augmentation import Augmentation
from components.settings.online import Online
from components.settings.parallel import Parallel
from components.training.loop import Augment
from flows.runtime.cost import cpu_seconds
from flows.runtime.observer import Silent
from flows.runtime.workers import joblib_parallel
from tests.benchmarks.harness import Row, markdown, spread
from tests.benchmarks.shift import PARQUET, World, make_of, train_network, world_of

SEEDS = (1, 2)
TRUNKS = 4
IMAGES = 2560
VAL = 320
"""Images of val that a score is measured on: an eighth of a trunk's, as 5,000 of 45,000 are in the paper."""
PROBE = 128
Run = tuple[str, int, int, str]
RUNS: tuple[Run, ...] = (
    ("copies", 2, 1, "sequential"),
    ("copies", 4, 1, "sequential"),
    ("copies", 8, 1, "sequential"),
    ("copies", 8, 2, "loky"),
    ("gradients", 1, 1, "sequential"),
    ("gradients", 1, 2, "loky"),
)
BY: dict[str, dict[str, Any]] = {
    "copies": {"controller": "bandit"},
    "gradients": {"controller": "matching", "reward": "alignment", "probe_images": PROBE},
}


def rows() -> Iterator[Row]:
    """All are preceded by a trunk that is not counted: workers start, pages are read, kernels are chosen."""
    torch.set_num_threads(1)
    data = "cifar10" if PARQUET.exists() else "digits"
    for seed in SEEDS:
        world = world_of(data, "none", seed)
        with TemporaryDirectory() as folder:
            yield from costs(data, mapped(replace(world, data=replace(world.data, widths=(32, 64, 128))), Path(folder)))


def mapped(world: World, folder: Path) -> World:
    """The same with train and val in files."""
    for name in ("train", "val"):
        split: Split = getattr(world, name)
        write_split(folder / name, split.images, split.labels)
    return replace(world, train=open_split(folder / "train"), val=open_split(folder / "val"))


def costs(data: str, world: World) -> Iterator[Row]:
    """Of one seed."""
    seed = world.seed
    pairs = augment_pairs(ELEMENTS, np.random.default_rng(seed).integers(len(ELEMENTS), size=(2, 2)).tolist())
    train_network(world, world.train, pairs, IMAGES)
    one = spent(train_network, world, world.train, pairs, TRUNKS * IMAGES)
    yield row(data, seed, ("none", 1, 1, "none"), one, one)
    apart(world, pairs, IMAGES)
    yield row(data, seed, ("none", 2, 2, "loky"), spent(apart, world, pairs, TRUNKS * IMAGES), one)
    for run in RUNS:
        search(world, *run, trunks=1)
        yield row(data, seed, run, spent(search, world, *run), one)


def row(data: str, seed: int, run: Run, took: dict[str, float], one: dict[str, float]) -> Row:
    by, copies, workers, backend = run
    relative = round(took["cpu_seconds"] / one["cpu_seconds"], 3)
    where = {"data": data, "seed": seed, "search": by, "copies": copies, "workers": workers, "backend": backend}
    return where | {key: round(value, 2) for key, value in took.items()} | {"relative_to_one_training": relative}


def search(world: World, by: str, copies: int, workers: int, backend: str, trunks: int = TRUNKS) -> None:
    online = Online(
        trunks=trunks, images=IMAGES, copies=max(2, copies), score_images=VAL, controller_lr=1.0, warmup_trunks=0,
        metric="calibrated_log_likelihood", **BY[by],
    )  # fmt: skip
    settings = Augmentation(online=online)
    parallel = joblib_parallel(Parallel(backend=backend, workers=workers), Silent())
    for _ in search_augmentation(
        make_of(world), world.train, world.val,
        settings=settings, recipe=world.data.recipe, seed=world.seed, parallel=parallel,
    ):  # fmt: skip
        pass


def apart(world: World, augment: Augment, images: int) -> None:
    """The same training twice, on two workers."""
    parallel = joblib_parallel(Parallel(backend="loky", workers=2), Silent())
    parallel(train_network, [(world, world.train, augment, images)] * 2)


def spent(work: Callable[..., object], *arguments: object) -> dict[str, float]:
    """CPU seconds of this process and its workers; wall seconds."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    work(*arguments)
    return {"cpu_seconds": cpu_seconds() - cpu, "wall_seconds": time.perf_counter() - wall}


def table(rows: Sequence[Row]) -> str:
    def run_of(row: Row) -> tuple[object, ...]:
        return tuple(row[key] for key in ("search", "copies", "workers", "backend"))

    lines = []
    for run in dict.fromkeys(map(run_of, rows)):
        by, copies, workers, backend = run
        same = [row for row in rows if run_of(row) == run]
        relative = [float(str(row["relative_to_one_training"])) for row in same]
        wall = [float(str(row["wall_seconds"])) for row in same]
        overhead = f"{mean(relative) / int(str(copies)) - 1:+.1%}" if by == "copies" else ""
        lines.append([by, copies, workers, backend, spread(relative, 2), overhead, spread(wall, 1)])
    return markdown(
        ["search by", "copies N", "workers", "backend", "CPU / one training", "above N", "wall seconds"], lines
    )
