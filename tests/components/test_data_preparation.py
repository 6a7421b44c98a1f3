"""Claims about preparing: every image once, in the split of its hash, statistics of train alone, the same bytes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data.images import content_hash, decode, to_array
from components.data.intake import take_in
from components.data.preparation import moments, prepare
from components.data.raw import read_images, read_index
from components.data.sources import open_source
from components.data.split import LabelledImage, Shares, assign, read_assignment, write_assignment
from components.data.store import SPLITS, Classes, Statistics, open_split, read_contents
from components.settings.data import Data


def data(source: Path, size: int = 8) -> Data:
    return Data(source="folder", path=str(source), size=size, val=0.2, test=0.2)


def make_folder(root: Path, seeds: range = range(60), mode: str = "RGB") -> Path:
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = root / ("cat", "dog")[seed % 2] / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)
    return root


def silent(items, total: int, what: str):  # type: ignore[no-untyped-def]
    return iter(items)


def run(source: Path, out: Path, size: int = 8, record: Path | None = None) -> tuple[Classes, Statistics]:
    """As an ingest and the stage after it do. `record`: the splits so far."""
    (out / "raw").mkdir(parents=True)
    settings = data(source, size)
    report = take_in(open_source(settings), out / "raw", settings, silent)
    images = [LabelledImage(entry.content, entry.label, entry.split) for entry in report.kept]
    before = read_assignment(record) if record else None
    write_assignment(out / "split.csv", assign(images, Shares(0.2, 0.2), before).assignment)
    return prepare(out / "raw", out / "split.csv", settings, {split: out / split for split in SPLITS}, silent)


def digests(folder: Path) -> dict[bytes, int]:
    """Pixels of each stored image -> its label."""
    split = open_split(folder)
    return {image.tobytes(): int(label) for image, label in zip(split.images, split.labels, strict=True)}


def test_every_image_is_in_exactly_the_split_of_its_record_with_its_label(tmp_path: Path) -> None:
    classes, statistics = run(make_folder(tmp_path / "source"), tmp_path)
    index = read_index(tmp_path / "raw")
    recorded = read_assignment(tmp_path / "split.csv").splits
    assigned = [recorded[content] for content in index.contents]
    stored = {split: digests(tmp_path / split) for split in SPLITS}
    for (path, encoded), split in zip(read_images(tmp_path / "raw"), assigned, strict=True):
        pixels = to_array(decode(encoded), 8, 3).tobytes()
        assert [name for name in SPLITS if pixels in stored[name]] == [split]
        assert classes.names[stored[split][pixels]] == path.split("/")[0]
    assert sum(map(len, stored.values())) == 60
    assert {split: sum(counts.values()) for split, counts in statistics.counts.items()} == {
        split: len(images) for split, images in stored.items()
    }


def test_new_images_move_no_old_one_and_leave_the_classes_as_they_were(tmp_path: Path) -> None:
    before, _ = run(make_folder(tmp_path / "source"), tmp_path / "one")
    record = tmp_path / "one" / "split.csv"
    after, _ = run(make_folder(tmp_path / "source", range(60, 200)), tmp_path / "two", record=record)
    assert before == after
    for split in SPLITS:
        assert digests(tmp_path / "one" / split).items() <= digests(tmp_path / "two" / split).items()


def test_statistics_are_those_of_train_alone(tmp_path: Path) -> None:
    _, statistics = run(make_folder(tmp_path / "source"), tmp_path)
    train = open_split(tmp_path / "train").images.astype(np.float64) / 255
    everything = np.concatenate([open_split(tmp_path / split).images for split in SPLITS]) / 255
    assert statistics.mean == pytest.approx(train.mean(axis=(0, 1, 2)), abs=1e-12)
    assert statistics.std == pytest.approx(train.std(axis=(0, 1, 2)), abs=1e-12)
    assert statistics.mean != pytest.approx(everything.mean(axis=(0, 1, 2)), abs=1e-6)


def test_moments_by_hand() -> None:
    histogram = np.zeros((1, 256), dtype=np.int64)
    histogram[0, 0] = histogram[0, 255] = 10
    assert moments(histogram) == ((0.5,), (0.5,))


def test_a_constant_channel_has_a_standard_deviation_one_can_divide_by() -> None:
    histogram = np.zeros((1, 256), dtype=np.int64)
    histogram[0, 51] = 10
    assert moments(histogram) == ((0.2,), (1 / 255,))


def test_preparing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source")
    found = []
    for name in ("one", "two"):
        classes, statistics = run(source, tmp_path / name, size=12)
        files = [
            tmp_path / name / split / kind for split in SPLITS for kind in ("images.npy", "labels.npy", "contents.npy")
        ]
        found.append(([hashlib.sha256(path.read_bytes()).hexdigest() for path in files], classes, statistics))
    assert found[0] == found[1]


def test_grey_images_have_one_channel_even_if_stored_as_colour(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", mode="L")
    with Image.open(source / "cat" / "0.png") as image:
        image.convert("RGB").save(source / "cat" / "0.png")
    classes, statistics = run(source, tmp_path)
    assert classes.channels == 1
    assert open_split(tmp_path / "train").images.shape[1:] == (8, 8, 1)
    assert len(statistics.mean) == 1


def test_one_colour_image_makes_three_channels(tmp_path: Path) -> None:
    source = make_folder(make_folder(tmp_path / "source", mode="L"), range(60, 61))
    classes, _ = run(source, tmp_path)
    assert classes.channels == 3


def test_images_of_any_shape_become_squares(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source")
    Image.new("RGB", (300, 20), "red").save(source / "cat" / "wide.png")
    run(source, tmp_path, size=16)
    assert all(open_split(tmp_path / split).images.shape[1:] == (16, 16, 3) for split in SPLITS)


def test_three_images_of_a_class_are_one_in_each_split(tmp_path: Path) -> None:
    _, statistics = run(make_folder(tmp_path / "source", range(6)), tmp_path)
    assert statistics.counts == {split: {"cat": 1, "dog": 1} for split in SPLITS}


def test_a_split_without_a_class_stops_before_anything_is_written(tmp_path: Path) -> None:
    """What is left of a class when images leave: nobody moves up."""
    make_folder(tmp_path / "source", range(40))
    run(tmp_path / "source", tmp_path / "one")
    kept = read_assignment(tmp_path / "one" / "split.csv").splits
    for file in (tmp_path / "source" / "cat").iterdir():
        with Image.open(file) as image:
            if kept[content_hash(image)] == "val":
                file.unlink()
    with pytest.raises(ValueError, match=r"the val split has no image of class 'cat' \(.*\); add images of it"):
        run(tmp_path / "source", tmp_path / "two", record=tmp_path / "one" / "split.csv")
    assert not any((tmp_path / "two" / split).exists() for split in SPLITS)


def test_the_images_of_a_split_are_known_by_their_content_in_their_order(tmp_path: Path) -> None:
    run(make_folder(tmp_path / "source"), tmp_path)
    recorded = read_assignment(tmp_path / "split.csv").splits
    for split in SPLITS:
        pixels = [Image.fromarray(image) for image in open_split(tmp_path / split).images]  # of the folder's own size
        contents = [content.hex() for content in read_contents(tmp_path / split / "contents.npy")]
        assert contents == [content_hash(image) for image in pixels]
        assert {recorded[content] for content in contents} == {split}


def test_no_raw_data_is_one_sentence_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run `python -m flows\.ingest`"):
        prepare(tmp_path, tmp_path / "split.csv", data(tmp_path), {split: tmp_path / split for split in SPLITS}, silent)
