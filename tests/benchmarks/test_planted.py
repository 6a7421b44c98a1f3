"""What is planted is what the page says, and DVC takes it for what `prepare` gave."""

from pathlib import Path

import numpy as np
import pytest

from components.data.store import (
    Classes,
    Split,
    Statistics,
    open_split,
    read_contents,
    read_statistics,
    write_classes,
    write_contents,
    write_split,
    write_statistics,
)
from flows.checkout import paths
from tests.benchmarks.planted import PLANTS, plant

NAMES = tuple("abcdefghij")
SIZES = {"train": 1000, "val": 200, "test": 200}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for name, count in SIZES.items():
        place = tmp_path / paths.PREPARED / name
        images = rng.integers(0, 100, (count, 8, 8, 3), dtype=np.uint8)
        write_split(place, images, np.arange(count, dtype=np.int64) % 10)
        write_contents(place, [bytes(image.flat[:32]).hex() for image in images])
    write_classes(tmp_path / paths.CLASSES, Classes(names=NAMES, size=8, channels=3))
    write_statistics(tmp_path / paths.STATISTICS, Statistics(mean=(0.5,) * 3, std=(0.2,) * 3, counts={}))
    return tmp_path


def splits_of(folder: Path) -> dict[str, Split]:
    opened = {name: open_split(folder / paths.PREPARED / name) for name in SIZES}
    return {name: Split(images=np.array(one.images), labels=np.array(one.labels)) for name, one in opened.items()}


@pytest.mark.parametrize("name", PLANTS)
def test_contents_and_counts_are_those_of_the_planted_images(folder: Path, name: str) -> None:
    before = splits_of(folder)
    plant(folder, name, 5)
    counts = read_statistics(folder / paths.STATISTICS).counts
    for split, one in splits_of(folder).items():
        contents = read_contents(folder / paths.PREPARED / split / "contents.npy")
        of = {bytes(image.flat[:32]): image for image in before[split].images}
        assert len(contents) == len(one.labels)
        assert all(np.array_equal(np.minimum(of[own], 255 - of[own]), np.minimum(image, 255 - image))
                   for own, image in zip(contents, one.images, strict=True))  # fmt: skip
        assert list(counts[split].values()) == np.bincount(one.labels, minlength=10).tolist()


def test_each_plant_changes_what_it_says(folder: Path) -> None:
    before = splits_of(folder)
    plant(folder, "inverted", 5)
    for name, after in splits_of(folder).items():
        changed = (after.images != before[name].images).any(axis=(1, 2, 3)).mean()
        assert changed == 0 if name == "train" else 0.35 < changed < 0.65
    plant(folder, "noise40", 5)
    wrong = {name: (one.labels != before[name].labels).mean() for name, one in splits_of(folder).items()}
    assert wrong == {"train": 0.4, "val": 0.4, "test": 0.0}


def test_the_rarest_class_of_train_has_a_fiftieth_of_the_commonest(folder: Path) -> None:
    plant(folder, "imbalance50", 5)
    counts = {name: np.bincount(one.labels).tolist() for name, one in splits_of(folder).items()}
    assert (max(counts["train"]), min(counts["train"])) == (100, 2)
    assert counts["val"] == counts["test"] == [20] * 10
