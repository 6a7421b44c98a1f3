"""Claims about the four sources: one contract for all, and what each says about a source that cannot be used."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

from components.data.images import decode, encode_png
from components.data.records import Refused, Rule, Source, relative
from components.data.sources import open_source
from components.settings.data import Data

NAMES = ("cat", "dog")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def data(source: str, path: Path | None = None) -> Data:
    return Data(source=source, path=None if path is None else str(path), size=8, val=0.2, test=0.2)


def make_folder(root: Path, parts: tuple[str, ...] = ("",)) -> Path:
    """Four images of each class in each part."""
    for seed, (part, name, number) in enumerate((p, n, i) for p in parts for n in NAMES for i in range(4)):
        (root / part / name).mkdir(parents=True, exist_ok=True)
        picture(seed).save(root / part / name / f"{number}.png")
    return root


def write_shard(path: Path, labels: list[int | None], *, names: tuple[str, ...] | None = NAMES, seed: int = 0) -> Path:
    """A shard in Hugging Face's layout."""
    images = [{"bytes": encode_png(picture(seed + n)), "path": f"{n}.png"} for n in range(len(labels))]
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pydict({"image": images, "label": labels}, schema=schema), path)
    return path


def make_shards(root: Path) -> Path:
    write_shard(root / "data" / "train-00000-of-00002.parquet", [0, 1, 0])
    write_shard(root / "data" / "train-00001-of-00002.parquet", [1, 1, 0], seed=10)
    write_shard(root / "data" / "test-00000-of-00001.parquet", [0, 1], seed=20)
    return root


def make_split_folders(root: Path) -> Path:
    """As Hugging Face converts data sets."""
    write_shard(root / "default" / "train" / "0000.parquet", [0, 1, 0])
    write_shard(root / "default" / "test" / "0000.parquet", [0, 1], seed=20)
    return root


def make_mnist(root: Path) -> Path:
    """torchvision's MNIST, as its raw idx files: 4 training and 2 test images."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for word, count in (("train", 4), ("t10k", 2)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{word}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        (folder / f"{word}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(range(count)))
    return root


SOURCES: dict[str, tuple[Callable[[Path], Data], set[str | None]]] = {
    "digits": (lambda root: data("digits"), {None}),
    "folder": (lambda root: data("folder", make_folder(root)), {None}),
    "folder with its own test split": (
        lambda root: data("folder", make_folder(root, ("train", "test"))),
        {"train", "test"},
    ),
    "parquet file": (lambda root: data("parquet", write_shard(root / "all.parquet", [0, 1, 1])), {None}),
    "parquet shards": (lambda root: data("parquet", make_shards(root)), {"train", "test"}),
    "parquet shards in a folder a split": (lambda root: data("parquet", make_split_folders(root)), {"train", "test"}),
    "torchvision ImageFolder": (lambda root: data("torchvision:ImageFolder", make_folder(root)), {None}),
    "torchvision MNIST": (lambda root: data("torchvision:MNIST", make_mnist(root)), {"train", "test"}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_keeps_the_contract(name: str, tmp_path: Path) -> None:
    make, splits = SOURCES[name]
    source = open_source(make(tmp_path))
    records = list(source.records)
    assert len(records) == source.count > 0
    assert len({record.path for record in records}) == source.count
    assert not any(PurePosixPath(record.path).is_absolute() or ".." in record.path for record in records)
    assert {record.split for record in records} == splits
    assert source.classes is not None
    assert {record.label for record in records} <= set(source.classes)
    for record in records[:20]:
        assert decode(record.read()).size[0] >= 8


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "digits"])
def test_a_source_opened_twice_gives_the_same_records(name: str, tmp_path: Path) -> None:
    settings = SOURCES[name][0](tmp_path)
    first, second = (
        [(record.path, record.label, record.split, record.read()) for record in open_source(settings).records]
        for _ in range(2)
    )
    assert first == second


def test_digits_are_the_1797_of_scikit_learn_in_full_contrast() -> None:
    source = open_source(data("digits"))
    pixels = np.stack([np.asarray(decode(record.read())) for record in source.records])
    assert pixels.shape == (1797, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 255)


def rejections(source: Source, look: Callable[[bytes], object] = len) -> dict[str, Rule]:
    """Path -> rule of the records whose `read` refuses, or what looks at the bytes."""
    found = {}
    for record in source.records:
        try:
            look(record.read())
        except Refused as refused:
            found[record.path] = refused.rule
    return found


# folder


def test_bytes_are_read_only_when_asked_for(tmp_path: Path) -> None:
    source = open_source(data("folder", make_folder(tmp_path)))
    (tmp_path / "cat" / "0.png").unlink()
    assert rejections(source) == {"cat/0.png": Rule.UNREADABLE}


def test_whatever_lies_in_a_folder_is_a_record_with_its_reason(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for name in ("readme.txt", "cat/.DS_Store", ".hidden/x.png", "dog/more/a.png", "dog/more/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    assert rejections(open_source(data("folder", tmp_path))) == {
        "readme.txt": Rule.MISPLACED,
        "cat/.DS_Store": Rule.HIDDEN,
        ".hidden": Rule.HIDDEN,
        "dog/more/a.png": Rule.MISPLACED,
        "dog/more/b.png": Rule.MISPLACED,
        "cat/gone.png": Rule.UNREADABLE,
        "cat/loop": Rule.MISPLACED,
    }


def test_beside_train_and_test_nothing_is_taken_in(tmp_path: Path) -> None:
    make_folder(tmp_path, ("train", "test", "more"))
    refused = rejections(open_source(data("folder", tmp_path)))
    assert len(refused) == 8
    assert all(path.startswith("more/") and rule == Rule.MISPLACED for path, rule in refused.items())


def splits_of(source: Source) -> dict[str, tuple[str | None, int]]:
    """Outermost folder -> the split its images are in, and how many there are."""
    found: dict[str, list[str | None]] = {}
    for record in source.records:
        found.setdefault(record.path.split("/")[0], []).append(record.split)
    return {folder: (splits[0], len(splits)) for folder, splits in found.items() if len(set(splits)) == 1}


LAYOUTS = {
    "train and val": (("train", "val"), {"train": ("train", 8), "val": ("train", 8)}),
    "Train and Test": (("Train", "Test"), {"Train": ("train", 8), "Test": ("test", 8)}),
    "as Roboflow": (("train", "valid", "test"), {"train": ("train", 8), "valid": ("train", 8), "test": ("test", 8)}),
    "in long": (
        ("TRAINING", "validation", "Testing"),
        {"TRAINING": ("train", 8), "validation": ("train", 8), "Testing": ("test", 8)},
    ),
    "in one folder": (("shapes",), {"shapes": (None, 8)}),
    "in two folders": (("a/b",), {"a": (None, 8)}),
    "train alone": (("train",), {"train": (None, 8)}),
    "splits in one folder": (("all/train", "all/val"), {"all": ("train", 16)}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_people_use_is_read_as_they_mean_it(name: str, tmp_path: Path) -> None:
    parts, expected = LAYOUTS[name]
    source = open_source(data("folder", make_folder(tmp_path, parts)))
    assert source.classes == NAMES
    assert splits_of(source) == expected


def test_how_a_layout_was_read_is_noted(tmp_path: Path) -> None:
    make_folder(tmp_path, ("all/Train", "all/Valid"))
    (tmp_path / "readme.txt").write_text("x")
    source = open_source(data("folder", tmp_path))
    assert source.notes == (
        "read from all, the one folder that holds class folders",
        "all/Valid taken as train material: the line draws its own val split",
    )
    assert rejections(source) == {"readme.txt": Rule.MISPLACED}


@pytest.mark.parametrize("names", [("bus", "car", "train"), ("test", "train"), ("test", "train", "val")])
def test_a_class_may_be_called_as_a_split_is(names: tuple[str, ...], tmp_path: Path) -> None:
    for seed, name in enumerate(names):
        (tmp_path / name).mkdir()
        picture(seed).save(tmp_path / name / "a.png")
    source = open_source(data("folder", tmp_path))
    assert source.classes == names
    assert [(record.label, record.split) for record in source.records] == [(name, None) for name in names]


def test_test_images_without_classes_are_no_class_of_their_own(tmp_path: Path) -> None:
    make_folder(tmp_path, ("train",))
    (tmp_path / "test").mkdir()
    picture(90).save(tmp_path / "test" / "1.png")
    source = open_source(data("folder", tmp_path))
    assert source.classes == NAMES
    assert rejections(source) == {"test/1.png": Rule.MISPLACED}


def test_images_a_folder_too_deep_are_named_beside_what_is_read(tmp_path: Path) -> None:
    make_folder(tmp_path, ("monday", "tuesday"))
    with pytest.raises(
        ValueError, match=r"holds images as monday/cat/0\.png; .* reads <class>/<image>, .* give the folder"
    ):
        open_source(data("folder", tmp_path))


def test_what_systems_leave_behind_and_folders_without_an_image_are_no_classes(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for name in (
        "__MACOSX/cat/0.png",
        "@eaDir/0.png/SYNO.jpg",
        "cat/@eaDir/0.png",
        "dog/Thumbs.db",
        "lost+found/#1",
        ".ipynb_checkpoints/a.png",
        "docs/notes.txt",
        "junk/Desktop.ini",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "later" / "still").mkdir(parents=True)
    source = open_source(data("folder", tmp_path))
    assert source.classes == NAMES
    assert rejections(source) == {
        "__MACOSX": Rule.SYSTEM,
        "@eaDir": Rule.SYSTEM,
        "cat/@eaDir": Rule.SYSTEM,
        "dog/Thumbs.db": Rule.SYSTEM,
        "lost+found": Rule.SYSTEM,
        ".ipynb_checkpoints": Rule.HIDDEN,
        "docs": Rule.NO_IMAGE,
        "junk": Rule.NO_IMAGE,
        "later": Rule.NO_IMAGE,
    }


def test_a_file_larger_than_any_allowed_image_is_not_read(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with (tmp_path / "cat" / "huge.png").open("wb") as huge:
        huge.truncate(1 << 40)  # sparse: a terabyte of nothing
    assert rejections(open_source(data("folder", tmp_path))) == {"cat/huge.png": Rule.TOO_LARGE}


def test_a_pipe_blocks_nothing(tmp_path: Path) -> None:
    make_folder(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert rejections(open_source(data("folder", tmp_path))) == {"cat/pipe.png": Rule.UNREADABLE}


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no class folders"):
        open_source(data("folder", tmp_path))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which is no folder"):
        open_source(data("folder", tmp_path / "nowhere"))


# parquet


SHARDS = {
    "a word in a name": (("mnist_train.parquet", "mnist_test.parquet"), ("train", "test")),
    "in capitals": (("Train.parquet", "TEST.parquet"), ("train", "test")),
    "in numbered names": (("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"), ("train", "test")),
    "in folders": (("data/train/0000.parquet", "data/test/0000.parquet"), ("train", "test")),
    "in a folder further out": (("train/de/0.parquet", "test/de/0.parquet"), ("train", "test")),
    "val beside test": (("x.validation.parquet", "x.test.parquet"), ("train", "test")),
    "a third one": (("train.parquet", "test.parquet", "extra.parquet"), ("train", "test", "train")),
    "within a word": (("latest.parquet", "train.parquet"), (None, None)),
    "of one split": (("train_a.parquet", "train_b.parquet"), (None, None)),
    "of two splits": (("train_test.parquet", "train.parquet"), (None, None)),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_is_of_the_split_whose_word_its_name_or_folder_holds(name: str, tmp_path: Path) -> None:
    shards, splits = SHARDS[name]
    for seed, shard in enumerate(shards):
        write_shard(tmp_path / shard, [0, 1], seed=10 * seed)
    records = open_source(data("parquet", tmp_path)).records
    found = {next(shard for shard in shards if record.path.startswith(shard)): record.split for record in records}
    assert found == dict(zip(shards, splits, strict=True))


def test_a_row_with_the_path_of_an_image_alone_says_how_to_save_it(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": None, "path": "a.png"}], "label": [0]})
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    pq.write_table(table.cast(schema), tmp_path / "a.parquet")
    with pytest.raises(Refused, match="no bytes; save the data set again with its images embedded"):
        next(open_source(data("parquet", tmp_path)).records).read()


def test_shards_named_test_alone_are_no_test_split(tmp_path: Path) -> None:
    write_shard(tmp_path / "test-0.parquet", [0, 1])
    write_shard(tmp_path / "more.parquet", [0, 1], seed=5)
    assert {record.split for record in open_source(data("parquet", tmp_path)).records} == {None}


def test_a_row_whose_label_has_no_class_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.parquet", [0, 2, -1, None])
    expected = dict.fromkeys(("1.png", "2.png", "3.png"), Rule.UNKNOWN_CLASS)
    assert rejections(open_source(data("parquet", path))) == expected


def test_without_names_the_numbers_name_the_classes(tmp_path: Path) -> None:
    source = open_source(data("parquet", write_shard(tmp_path / "a.parquet", [0, 11], names=None)))
    assert source.classes is None
    assert [record.label for record in source.records] == ["0", "11"]


def test_more_rows_than_a_batch_all_come(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.parquet", [0, 1] * 300)
    assert len({record.read() for record in open_source(data("parquet", path)).records}) == 600


def wrong_columns(root: Path) -> Path:
    pq.write_table(pa.table({"img": ["a"], "fine_label": [1]}), root / "a.parquet")
    return root / "a.parquet"


def wrong_image_type(root: Path) -> Path:
    pq.write_table(pa.table({"image": [b"a"], "label": [1]}), root / "a.parquet")
    return root / "a.parquet"


def wrong_label_type(root: Path) -> Path:
    pq.write_table(pa.table({"image": [{"bytes": b"a"}], "label": ["cat"]}), root / "a.parquet")
    return root / "a.parquet"


def text_file(root: Path) -> Path:
    (root / "a.parquet").write_text("no parquet")
    return root / "a.parquet"


def disagreeing_shards(root: Path) -> Path:
    write_shard(root / "a.parquet", [0, 1])
    write_shard(root / "b.parquet", [0, 1], names=("dog", "cat"))
    return root


UNUSABLE = {
    wrong_columns: "a.parquet has no column 'image' but img, fine_label; rename",
    wrong_image_type: "images of type binary; the column must be a struct",
    wrong_label_type: "labels of type string; the column must hold integers",
    text_file: "a.parquet is no Parquet file",
    disagreeing_shards: "b.parquet names other classes than a.parquet",
    lambda root: root / "nowhere": "which is not there",
    lambda root: root: "holds no \\*.parquet file",
}


@pytest.mark.parametrize("make", UNUSABLE, ids=lambda make: make.__name__)
def test_parquet_that_cannot_be_used_is_refused_in_one_sentence(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=UNUSABLE[make]) as told:
        open_source(data("parquet", make(tmp_path)))
    assert "\n" not in str(told.value)


def test_a_shard_damaged_inside_ends_in_one_sentence(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.parquet", [0, 1] * 50)
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read after row 0"):
        list(open_source(data("parquet", path)).records)


# torchvision


class Tiny(torchvision.datasets.FakeData):
    """FakeData's signature (no root, no split) at a size for tests."""

    def __init__(self) -> None:
        super().__init__(size=6, image_size=(3, 8, 8), num_classes=3)


class Boxes(torch.utils.data.Dataset):
    """A detection data set: not for us."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, list[int]]]:
        return picture(index), {"boxes": [1]}


@pytest.fixture(autouse=True)
def _our_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "Tiny", Tiny, raising=False)
    monkeypatch.setattr(torchvision.datasets, "Boxes", Boxes, raising=False)


def test_fake_data_needs_no_path_and_its_numbers_name_the_classes() -> None:
    source = open_source(data("torchvision:Tiny"))
    assert source.classes is None
    assert {record.label for record in source.records} <= {"0", "1", "2"}


def test_fake_data_itself_can_be_opened() -> None:
    source = open_source(data("torchvision:FakeData"))
    assert source.count == 1000
    assert decode(next(source.records).read()).size == (224, 224)


def test_torchvision_images_lose_nothing(tmp_path: Path) -> None:
    records = open_source(data("torchvision:ImageFolder", make_folder(tmp_path))).records
    record = next(iter(records))
    assert record.path == "cat/0.png"
    assert np.array_equal(np.asarray(decode(record.read())), np.asarray(Image.open(tmp_path / "cat" / "0.png")))


def test_files_give_the_same_pixels_by_torchvision_as_by_folder(tmp_path: Path) -> None:
    """Upright, 16 bits by their upper 8, transparency on white: what a model in service sees of the same file."""
    make_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(70).crop((0, 0, 8, 4)).save(tmp_path / "cat" / "sideways.jpg", exif=exif)
    deep = np.random.default_rng(71).integers(0, 65536, (8, 8), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "cat" / "sixteen.png")
    picture(72).convert("LA").save(tmp_path / "dog" / "clear.png")
    found = {
        kind: {record.path: record.read() for record in open_source(data(kind, tmp_path)).records}
        for kind in ("folder", "torchvision:ImageFolder")
    }
    assert found["folder"] == found["torchvision:ImageFolder"]
    assert decode(found["folder"]["cat/sideways.jpg"]).size == (4, 8)


def make_rendered_sst2(root: Path) -> Path:
    """A data set that keeps its files to itself: two images of each class in each of three parts."""
    for seed, (part, name) in enumerate((p, n) for p in ("train", "valid", "test") for n in ("negative", "positive")):
        (root / "rendered-sst2" / part / name).mkdir(parents=True)
        for number in range(2):
            picture(10 * seed + number).save(root / "rendered-sst2" / part / name / f"{number}.png")
    return root


def test_a_data_set_of_files_gives_their_very_bytes(tmp_path: Path) -> None:
    records = list(open_source(data("torchvision:RenderedSST2", make_rendered_sst2(tmp_path))).records)
    assert len(records) == 12
    assert all((tmp_path / record.path).read_bytes() == record.read() for record in records)


def test_an_item_that_torchvision_itself_decodes_is_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sideways(Tiny):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            exif = Image.Exif()
            exif[0x0112] = 6
            picture(index).crop((0, 0, 8, 4)).save(tmp_path / "item.jpg", exif=exif)
            return Image.open(tmp_path / "item.jpg").convert("RGB"), 0

    monkeypatch.setattr(torchvision.datasets, "Tiny", Sideways)
    record = next(iter(open_source(data("torchvision:Tiny")).records))
    assert decode(record.read()).size == (4, 8)


def test_a_corrupt_file_of_a_torchvision_data_set_is_refused_as_in_a_folder(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes(b"broken")
    (tmp_path / "cat" / "2.png").unlink()
    (tmp_path / "cat" / "2.png").symlink_to("loop.png")
    (tmp_path / "cat" / "loop.png").symlink_to("2.png")
    source = open_source(data("torchvision:ImageFolder", tmp_path))
    assert rejections(source, decode) == {
        "cat/1.png": Rule.NOT_AN_IMAGE,
        "cat/2.png": Rule.UNREADABLE,
        "cat/loop.png": Rule.UNREADABLE,
    }


class Failing(Tiny):
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 1:
            raise OSError("damaged")
        return picture(index), 0


def test_an_item_that_torchvision_cannot_read_is_refused_and_the_rest_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "Tiny", Failing)
    assert rejections(open_source(data("torchvision:Tiny"))) == {"all/000001": Rule.UNREADABLE}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("CIFAR11", "no data set of torchvision; did you mean torchvision:CIFAR10"),
        ("VisionDataset", "no data set of torchvision"),
        ("CIFAR10", "cannot be opened in data.path"),
        ("PhotoTour", "needs name, which cannot be set"),
    ],
)
def test_a_torchvision_name_that_cannot_be_used_gets_one_sentence(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence) as told:
        open_source(data(f"torchvision:{name}", tmp_path))
    assert "\n" not in str(told.value)


def test_a_torchvision_data_set_without_its_folder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.path is None; set it"):
        open_source(data("torchvision:MNIST"))


def test_a_data_set_that_is_no_classification_is_refused() -> None:
    with pytest.raises(ValueError, match=r"only data sets of \(image, class\)"):
        list(open_source(data("torchvision:Boxes")).records)


# paths


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a/b.png", "a/b.png"),
        ("/home/someone/b.png", "b.png"),
        ("C:\\Users\\someone\\b.png", "b.png"),
        ("../../etc/b.png", "b.png"),
        ("caf\udce9.png", "caf\\xe9.png"),
    ],
)
def test_a_report_shows_no_absolute_path_and_only_readable_text(given: str, shown: str) -> None:
    assert relative(given) == shown
