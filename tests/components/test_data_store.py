"""Claims about the prepared store: memory-mapped, exact, the same bytes."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from components.data.store import (
    Classes,
    Split,
    SplitWriter,
    Statistics,
    open_split,
    read_classes,
    read_statistics,
    write_classes,
    write_split,
    write_statistics,
)


def arrays(count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8), rng.integers(0, 4, count)


def test_a_split_comes_back_as_it_was_written_mapped_and_read_only(tmp_path: Path) -> None:
    images, labels = arrays()
    write_split(tmp_path / "train", images, labels)
    split = open_split(tmp_path / "train")
    assert isinstance(split.images, np.memmap)
    assert np.array_equal(split.images, images)
    assert np.array_equal(split.labels, labels)
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 0


def test_a_mapped_split_is_pickled_by_the_name_of_its_file(tmp_path: Path) -> None:
    write_split(tmp_path / "train", *arrays(1000))
    split = open_split(tmp_path / "train")
    pickled = pickle.dumps(split)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert isinstance(again.images, np.memmap)
    assert str(again.images.filename) == str(split.images.filename)
    assert np.array_equal(again.images, split.images)
    assert np.array_equal(again.labels, split.labels)


def test_a_split_in_memory_and_a_part_of_a_mapped_one_are_pickled_as_they_are(tmp_path: Path) -> None:
    images, labels = arrays(50)
    write_split(tmp_path / "train", images, labels)
    mapped = open_split(tmp_path / "train")
    for split in (
        Split(images=images[10:20], labels=labels[10:20]),
        Split(images=mapped.images[10:20], labels=mapped.labels[10:20]),
    ):
        again = pickle.loads(pickle.dumps(split))
        assert np.array_equal(again.images, images[10:20])
        assert np.array_equal(again.labels, labels[10:20])


def test_batch_by_batch_gives_numpys_own_bytes(tmp_path: Path) -> None:
    images, labels = arrays()
    with SplitWriter(tmp_path / "a", 7, 6, 3) as writer:
        for start in (0, 3, 6):
            writer.add(images[start : start + 3], labels[start : start + 3])
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    for name in ("images.npy", "labels.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_fewer_images_than_announced_is_our_mistake(tmp_path: Path) -> None:
    images, labels = arrays()
    with pytest.raises(AssertionError, match="1 images fewer"), SplitWriter(tmp_path, 8, 6, 3) as writer:
        writer.add(images, labels)


def test_classes_and_statistics_survive_a_round_trip_exactly(tmp_path: Path) -> None:
    classes = Classes(names=("naïve", "b"), size=6, channels=3)
    statistics = Statistics(mean=(0.1 + 0.2, 1 / 3, 0.0), std=(1e-17, 0.5, 1.0), counts={"train": {"naïve": 2, "b": 1}})
    write_classes(tmp_path / "classes.json", classes)
    write_statistics(tmp_path / "statistics.json", statistics)
    assert read_classes(tmp_path / "classes.json") == classes
    assert read_statistics(tmp_path / "statistics.json") == statistics
