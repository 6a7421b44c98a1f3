"""Claims about taking a source in: what is wrong is listed by path and reason, what is sound is kept unchanged."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.data import raw
from components.data.images import encode_png
from components.data.intake import take_in
from components.data.raw import groups, read_images, read_index
from components.data.records import Entry, Record, Rule, Source
from components.data.sources import open_source
from components.data.validation import Rejection, Report, resolve
from components.settings.data import Data


def picture(seed: int, size: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def make_folder(root: Path, part: str = "", first: int = 0) -> Path:
    """Five images each of cat and dog."""
    for seed in range(10):
        save(root / part / ("cat" if seed < 5 else "dog") / f"{seed}.png", picture(first + seed))
    return root


def take(root: Path, out: Path, source: str = "folder") -> tuple[Report, dict]:
    out.mkdir(parents=True)
    data = Data(source=source, path=str(root), size=8, val=0.2, test=0.2)
    report = take_in(open_source(data), out, data, lambda items, total, what: iter(items))
    return report, json.loads((out / "validation.json").read_text())


def listed(validation: dict, part: str) -> dict[str, str]:
    return {one["path"]: one["rule"] for one in validation[part]}


def test_everything_that_can_be_wrong_is_listed_and_the_rest_is_kept(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "source")
    whole = encode_png(picture(50, 64))
    (root / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "cat" / "empty.jpg").write_bytes(b"")
    (root / "dog" / "notes.txt").write_text("to do: label the rest")
    (root / "dog" / ".hidden.png").write_bytes(whole)
    save(root / "cat" / "both.png", picture(60))
    save(root / "dog" / "both.bmp", picture(60))
    save(root / "cat" / "again.tiff", picture(0))
    report, validation = take(root, tmp_path / "raw")
    assert listed(validation, "refused") == {
        "cat/cut.png": "truncated",
        "cat/empty.jpg": "empty",
        "dog/notes.txt": "not an image",
        "dog/.hidden.png": "hidden",
    }
    assert listed(validation, "quarantined") == {"cat/both.png": "two labels", "dog/both.bmp": "two labels"}
    assert listed(validation, "duplicates") == {"cat/again.tiff": "duplicate"}
    assert validation["counts"] == {"kept": 10, "refused": 4, "quarantined": 2, "duplicates": 1}
    assert validation["classes"]["cat"] == {"kept": 5, "refused": 2, "quarantined": 1, "duplicates": 1}
    assert len(report.kept) == len(list(read_images(tmp_path / "raw"))) == 10


def test_the_report_names_no_place_on_this_machine(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "source")
    (root / "cat" / "bad.png").write_bytes(b"bad")
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    take(root, tmp_path / "raw")
    assert str(tmp_path) not in (tmp_path / "raw" / "validation.json").read_text()
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in (tmp_path / "raw").iterdir())


def test_a_picture_under_two_labels_is_quarantined_in_every_copy_and_says_where_the_other_is(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "source")
    for name in ("cat/a.png", "cat/b.bmp", "dog/c.png"):
        save(root / name, picture(70))
    _, validation = take(root, tmp_path / "raw")
    assert set(listed(validation, "quarantined")) == {"cat/a.png", "cat/b.bmp", "dog/c.png"}
    assert validation["quarantined"][0]["reason"] == "the same picture is 'cat' in cat/a.png and 'dog' in dog/c.png"
    assert not any(path.startswith(("cat/a", "cat/b", "dog/c")) for path, _ in read_images(tmp_path / "raw"))


def test_a_picture_in_train_and_test_stays_in_test_only(tmp_path: Path) -> None:
    root = make_folder(make_folder(tmp_path / "source", "train"), "test", first=100)
    save(root / "train" / "cat" / "leak.png", picture(100))  # test/cat/0.png
    _, validation = take(root, tmp_path / "raw")
    assert listed(validation, "duplicates") == {"train/cat/leak.png": "duplicate"}
    assert read_index(tmp_path / "raw").splits.count("test") == 10


def entry(path: str, label: str, split: str | None, content: str) -> Entry:
    return Entry(path=path, label=label, split=split, content=content, channels=1, start=0, length=1)


def test_of_equal_pictures_the_one_in_test_is_kept_whatever_its_name() -> None:
    source = Source(name="parquet", classes=("cat",), count=3, records=iter(()))
    copies = [entry(path, "cat", split, "c") for path, split in (("a", "train"), ("z", "test"), ("b", "test"))]
    assert [one.path for one in resolve(source, copies, []).kept] == ["b"]


def test_numbered_classes_are_in_numerical_order_and_none_vanishes_unseen() -> None:
    source = Source(name="parquet", classes=None, count=4, records=iter(()))
    found = [entry("a", "10", None, "1"), entry("b", "9", None, "2"), entry("c", "2", None, "2")]
    refused = [Rejection(path="d", label="0", rule=Rule.EMPTY, reason="it has zero bytes")]
    assert resolve(source, found, refused).classes == ("0", "2", "9", "10")


def test_a_class_that_only_the_test_folder_has_is_refused(tmp_path: Path) -> None:
    root = make_folder(make_folder(tmp_path / "source", "train"), "test", first=100)
    save(root / "test" / "cow" / "a.png", picture(200))
    _, validation = take(root, tmp_path / "raw")
    assert listed(validation, "refused") == {"test/cow/a.png": "unknown class"}


def test_names_that_no_image_bears_are_left_out_with_a_note_and_the_others_are_renumbered(tmp_path: Path) -> None:
    """What `datasets` leaves of a data set that was filtered."""
    names = ("bird", "cat", "cow", "dog")
    images = [Record(path=f"{n}", label=names[1 + 2 * (n % 2)], read=partial(encode_png, picture(n))) for n in range(8)]
    source = Source(name="parquet", classes=names, count=8, records=iter(images))
    data = Data(source="parquet", path="unused", size=8, val=0.2, test=0.2)
    report = take_in(source, tmp_path, data, lambda items, total, what: iter(items))
    assert report.classes == read_index(tmp_path).names == ("cat", "dog")
    assert set(read_index(tmp_path).labels.tolist()) == {0, 1}
    validation = json.loads((tmp_path / "validation.json").read_text())
    assert validation["notes"] == ["class names that no image bears, left out: bird, cow"]
    assert list(validation["classes"]) == ["cat", "dog"]


def test_a_source_of_which_nothing_was_to_be_decided_has_no_notes(tmp_path: Path) -> None:
    assert "notes" not in take(make_folder(tmp_path / "source"), tmp_path / "raw")[1]


def test_a_class_whose_images_were_all_turned_away_stops_the_ingest(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "source")
    for path in (root / "cat").iterdir():
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"class 'cat' is left with 0 images .* run `git lfs pull`"):
        take(root, tmp_path / "raw")


def test_a_class_left_with_two_images_stops_the_ingest_with_its_name_count_and_a_reason(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "source")
    for seed in (0, 1, 2):
        (root / "cat" / f"{seed}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"class 'cat' is left with 2 images \(3 turned away; cat/0.png: it has zero"):
        take(root, tmp_path / "raw")
    assert not (tmp_path / "raw" / "validation.json").exists()


def test_a_single_class_is_no_classification_and_an_empty_folder_is_named(tmp_path: Path) -> None:
    for seed in range(5):
        save(tmp_path / "source" / "cat" / f"{seed}.png", picture(seed))
    (tmp_path / "source" / "dog").mkdir()
    with pytest.raises(
        ValueError, match=r"gives 1 class\(es\) \(cat; dog: the folder holds no image.*\); .* at least 2"
    ):
        take(tmp_path / "source", tmp_path / "raw")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_unchanged_source_gives_the_same_bytes(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "source")
    (root / "cat" / "bad.png").write_bytes(b"bad")
    take(root, tmp_path / "one")
    take(root, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_bytes_do_not_depend_on_the_order_in_which_files_were_made(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "source")
    copy = tmp_path / "copy"
    for path in sorted(root.rglob("*.png"), reverse=True):
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    take(root, tmp_path / "one")
    take(copy, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_images_keep_the_very_bytes_they_came_with(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "source")
    picture(80, 32).save(root / "cat" / "photo.jpg", quality=60)
    take(root, tmp_path / "raw")
    assert all((root / path).read_bytes() == data for path, data in read_images(tmp_path / "raw"))


def test_data_taken_in_is_itself_a_parquet_source_with_the_same_result(tmp_path: Path) -> None:
    take(make_folder(tmp_path / "source"), tmp_path / "one")
    take(tmp_path / "one", tmp_path / "two", source="parquet")
    assert [data for _, data in read_images(tmp_path / "one")] == [data for _, data in read_images(tmp_path / "two")]
    first, second = read_index(tmp_path / "one"), read_index(tmp_path / "two")
    assert (first.names, first.contents) == (second.names, second.contents)
    assert np.array_equal(first.labels, second.labels)


def test_rows_lie_in_the_shard_of_their_hash_in_order(tmp_path: Path) -> None:
    take(make_folder(tmp_path / "source"), tmp_path / "raw")
    for path in (tmp_path / "raw").glob("images-*.parquet"):
        found = pq.read_table(path)["content"].to_pylist()
        assert found == sorted(found)
        assert {content[0] for content in found} == {path.stem.removeprefix("images-")}


def test_the_spill_files_are_gone_afterwards(tmp_path: Path) -> None:
    take(make_folder(tmp_path / "source"), tmp_path / "raw")
    assert {path.name.split("-")[0] for path in (tmp_path / "raw").iterdir()} == {"images", "validation.json"}


def test_row_groups_are_bounded_in_bytes_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "GROUP_BYTES", 100)
    monkeypatch.setattr(raw, "GROUP_ROWS", 3)
    lengths = [60, 60, 10, 10, 10, 10, 500, 5]
    entries = [
        Entry(path="", label="", split=None, content="", channels=1, start=0, length=length) for length in lengths
    ]
    assert [[one.length for one in group] for group in groups(entries)] == [[60], [60, 10, 10], [10, 10], [500], [5]]


def test_no_image_is_held_while_the_next_ones_are_read(tmp_path: Path) -> None:
    alive: set[int] = set()

    class Held(bytes):
        def __del__(self) -> None:
            alive.discard(id(self))

    def read(seed: int) -> bytes:
        data = Held(encode_png(picture(seed)))
        alive.add(id(data))
        assert len(alive) <= 2
        return data

    def records() -> Iterator[Record]:
        for seed in range(20):
            yield Record(path=str(seed), label=("cat", "dog")[seed % 2], read=partial(read, seed))

    data = Data(source="folder", path="unused", size=8, val=0.2, test=0.2)
    source = Source(name="folder", classes=("cat", "dog"), count=20, records=records())
    assert len(take_in(source, tmp_path, data, lambda items, total, what: iter(items)).kept) == 20
