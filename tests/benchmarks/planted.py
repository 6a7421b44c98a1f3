"""Data in which the searches have something to find, planted into what `prepare` wrote.

inverted      production inverts half of the images: val and test do, train does not (tests/benchmarks/shift.py)
noise40       40 % of the labels of train and of val are wrong; test is clean (tests/benchmarks/hard.py)
imbalance50   train has 50 times as many images of its commonest class as of its rarest; val and test are balanced
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from components.data.store import (
    CONTENTS,
    SPLITS,
    Split,
    open_split,
    read_classes,
    read_contents,
    read_statistics,
    write_contents,
    write_split,
    write_statistics,
)
from components.streams import stream
from flows.checkout import paths
from tests.benchmarks.hard import CLASSES, relabelled
from tests.benchmarks.shift import TASKS, shifted

IMBALANCE = 50
NOISE = 0.4

Plant = Callable[[str, Split, np.random.Generator], tuple[Split, Int64[np.ndarray, " n"]]]
"""(name of the split, split, generator) -> the split as planted, and which rows of the former one it has."""


def all_rows(split: Split) -> Int64[np.ndarray, " n"]:
    return np.arange(len(split.labels))


def invert(name: str, split: Split, rng: np.random.Generator) -> tuple[Split, Int64[np.ndarray, " n"]]:
    if name == "train":
        return split, all_rows(split)
    return Split(images=shifted(TASKS["inverted"], split.images, rng), labels=split.labels), all_rows(split)


def mislabel(name: str, split: Split, rng: np.random.Generator) -> tuple[Split, Int64[np.ndarray, " n"]]:
    if name == "test":
        return split, all_rows(split)
    return Split(images=split.images, labels=relabelled(split.labels, NOISE, rng)), all_rows(split)


def unbalance(name: str, split: Split, rng: np.random.Generator) -> tuple[Split, Int64[np.ndarray, " n"]]:
    if name != "train":
        return split, all_rows(split)
    common, rows = rng.permutation(CLASSES), []
    for kind in range(CLASSES):
        own = rng.permutation(np.flatnonzero(split.labels == kind))
        rows.append(own[: round(len(own) * IMBALANCE ** (-common[kind] / (CLASSES - 1)))])
    kept = np.sort(np.concatenate(rows))
    return split.at(kept), kept


PLANTS: dict[str, Plant] = {"inverted": invert, "noise40": mislabel, "imbalance50": unbalance}


def plant(folder: Path, name: str, seed: int) -> None:
    """Change the prepared splits of a checkout; `dvc commit prepare` then makes them what the stage gave."""
    names, statistics = read_classes(folder / paths.CLASSES).names, read_statistics(folder / paths.STATISTICS)
    counts = {}
    for split in SPLITS:
        place = folder / paths.PREPARED / split
        before = open_split(place)
        whole = Split(images=np.array(before.images), labels=np.array(before.labels))
        contents = read_contents(place / CONTENTS)
        after, rows = PLANTS[name](split, whole, stream(seed, "planted", name, split))
        for file in place.iterdir():
            file.unlink()  # what lies there may be a link into DVC's cache
        write_split(place, after.images, after.labels)
        write_contents(place, [contents[row].hex() for row in rows])
        counts[split] = dict(zip(names, np.bincount(after.labels, minlength=len(names)).tolist(), strict=True))
    (folder / paths.STATISTICS).unlink()
    write_statistics(folder / paths.STATISTICS, replace(statistics, counts=counts))
