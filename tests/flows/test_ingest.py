"""Claims about ingest: the new data take the old ones' place whole, or nothing changes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image

from components.data.records import Record, Source
from components.settings.data import Data
from components.settings.params import Params
from flows import ingest
from flows.checkout import commits, paths, versions
from flows.checkout.settings import load_params
from flows.settings import PRESETS

ROOT = Path(__file__).parents[2]


class Versions:
    """Stands in for DVC and remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, remote: bool = False) -> None:
        self.asked: list[tuple[str, ...]] = []
        monkeypatch.setattr(versions, "add_data", lambda *places: self.asked.append(("add", *map(str, places))))
        monkeypatch.setattr(versions, "push_data", lambda *places: self.asked.append(("push", *map(str, places))))
        monkeypatch.setattr(versions, "has_remote", lambda: remote)
        monkeypatch.setattr(versions, "require_repository", lambda *places: None)
        monkeypatch.setattr(commits, "git_complaint", lambda: None)
        monkeypatch.setattr(versions, "cache_of", lambda folder: folder.absolute())


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def dvc(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    return Versions(monkeypatch)


def settings(source: str = "folder", path: str | None = "images") -> Params:
    digits = load_params(PRESETS / "digits.yaml")
    train = replace(digits.train, recipe=replace(digits.train.recipe, batch_size=8))
    return replace(digits, train=train, data=Data(source=source, path=path, size=8, val=0.2, test=0.2))


def make_folder(root: Path, count: int = 30) -> Path:
    """`count` images each of cat and dog."""
    for seed in range(2 * count):
        make_image(root / ("cat", "dog")[seed % 2] / f"{seed}.png", seed)
    return root


def make_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def contents(folder: Path = paths.RAW) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*sorted(folder.iterdir()), paths.SPLIT]}


def test_ingest_makes_a_data_version_and_counts_what_it_did(dvc: Versions) -> None:
    make_folder(Path("images"))
    Path("images/cat/bad.png").write_bytes(b"")
    report = ingest.ingest(settings())
    assert report == ingest.IngestReport(classes=2, images=60, refused=1, quarantined=0, duplicates=0)
    assert dvc.asked == [("add", "data/raw", "data/split.csv")]
    assert sorted(path.name for path in paths.RAW.parent.iterdir()) == ["raw", "split.csv"]


def test_with_a_remote_the_data_version_is_pushed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Versions(monkeypatch, remote=True).asked
    make_folder(Path("images"))
    ingest.ingest(settings())
    assert asked == [("add", "data/raw", "data/split.csv"), ("push", "data/raw.dvc", "data/split.csv.dvc")]


def test_a_second_ingest_of_an_unchanged_source_gives_the_same_bytes(dvc: Versions) -> None:
    make_folder(Path("images"))
    ingest.ingest(settings())
    first = contents()
    ingest.ingest(settings())
    assert contents() == first


def test_digits_need_nothing_but_the_package(dvc: Versions) -> None:
    report = ingest.ingest(settings("digits", None))
    assert (report.images, report.classes, report.refused) == (1797, 10, 0)


def test_what_is_no_longer_in_the_source_is_no_longer_in_the_data(dvc: Versions) -> None:
    make_folder(Path("images"))
    ingest.ingest(settings())
    Path("images/cat/0.png").unlink()
    assert ingest.ingest(settings()).images == 59


def test_what_a_person_might_not_expect_is_said_below_the_counts(dvc: Versions) -> None:
    make_folder(Path("images"))
    for seed in range(10):
        make_image(Path("images/fox") / f"{seed}.png", 1000 + seed)
    assert ingest.ingest(settings()).sentence().count("\n") == 0
    for file in Path("images/fox").iterdir():
        file.unlink()
    Path("images").rename("all")
    Path("wrapped").mkdir()
    Path("all").rename("wrapped/images")
    found = settings("folder", "wrapped")
    other = replace(found, data=replace(found.data, test=0.3))
    lines = ingest.ingest(other).sentence().splitlines()
    assert lines[0].startswith("60 images of 2 classes in data/raw; ")
    assert lines[1:] == [
        "6 images moved from train to test",
        "read from images, the one folder that holds class folders",
        "no image is left of fox: the data version before had such a class",
    ]


def test_the_record_of_splits_goes_on_from_the_version_that_dvc_names(
    dvc: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a new clone there is the pointer alone; after a merge it names another record than the one that lies here."""
    make_folder(Path("images"))
    ingest.ingest(settings())
    record = paths.SPLIT.read_text()
    paths.SPLIT_DVC.write_text("outs:\n- md5: 0\n")
    monkeypatch.setattr(versions, "data_object", lambda pointer: record.encode())
    paths.SPLIT.unlink()
    Path("images/cat/0.png").unlink()
    ingest.ingest(settings())
    assert paths.SPLIT.read_text() == record
    first = record.splitlines()[2]
    paths.SPLIT.write_text(record.replace(f"{first}\n", ""))
    ingest.ingest(settings())
    assert paths.SPLIT.read_text() == record


def test_a_class_is_split_anew_on_demand_and_an_unknown_one_is_refused(dvc: Versions) -> None:
    make_folder(Path("images"))
    ingest.ingest(settings())
    with pytest.raises(ValueError, match="there is no class 'fox' to split anew; use one of cat, dog"):
        ingest.ingest(settings(), anew=["fox"])
    assert ingest.ingest(settings(), anew=["cat"]).moved == {}  # the same images, the same splits


def test_images_that_were_there_before_the_record_are_said_to_be_split_anew(dvc: Versions) -> None:
    make_folder(Path("images"))
    assert ingest.ANEW not in ingest.ingest(settings()).notes
    paths.SPLIT.unlink()
    assert ingest.ANEW in ingest.ingest(settings()).notes


def test_without_the_record_of_splits_nothing_is_split_anew(dvc: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(Path("images"))
    paths.SPLIT_DVC.parent.mkdir()
    paths.SPLIT_DVC.write_text("outs:\n- md5: 0\n")
    monkeypatch.setattr(versions, "data_object", lambda pointer: None)
    with pytest.raises(commits.VersionsError, match=r"data/split\.csv is missing.*`dvc pull data/split\.csv`"):
        ingest.ingest(settings())
    assert not paths.RAW.exists()


def test_a_refused_source_leaves_the_old_data_and_no_trace(dvc: Versions) -> None:
    make_folder(Path("images"))
    ingest.ingest(settings())
    before = contents()
    for seed in range(0, 56, 2):
        Path(f"images/cat/{seed}.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="class 'cat' is left with 2 images"):
        ingest.ingest(settings())
    assert contents() == before
    assert sorted(path.name for path in paths.RAW.parent.iterdir()) == ["raw", "split.csv"]
    assert len(dvc.asked) == 1


def test_a_batch_larger_than_the_train_split_is_refused_before_anything_is_written(dvc: Versions) -> None:
    make_folder(Path("images"))
    few = settings()
    large = replace(few, train=replace(few.train, recipe=replace(few.train.recipe, batch_size=50)))
    with pytest.raises(ValueError, match=r"batch_size is 50, but the train split has \d+ images; use at most \d+"):
        ingest.ingest(large)
    assert not paths.RAW.exists()
    assert not paths.SPLIT.exists()
    assert dvc.asked == []


def test_a_source_that_breaks_off_leaves_the_old_data(dvc: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(Path("images"))
    ingest.ingest(settings())
    before = contents()

    def break_off() -> Iterator[Record]:
        raise KeyboardInterrupt
        yield

    broken = Source(name="folder", classes=("cat", "dog"), count=1, records=break_off())
    monkeypatch.setattr(ingest, "open_source", lambda data: broken)
    with pytest.raises(KeyboardInterrupt):
        ingest.ingest(settings())
    assert contents() == before


KILLED = """
import sys, time
from flows import ingest
from flows.checkout.settings import load_params
from flows.settings import PRESETS
from dataclasses import replace
from components.settings.data import Data

def take_in(source, folder, data, progress):
    (folder / "spill-0").write_text("half written")
    print("writing", flush=True)
    time.sleep(60)

ingest.take_in = take_in
ingest.require_data_ready = lambda params: None  # this folder is no repository
data = Data(source="folder", path="images", size=8, val=0.2, test=0.2)
ingest.ingest(replace(load_params(PRESETS / "digits.yaml"), data=data))
"""


def test_a_killed_ingest_leaves_the_old_data_and_the_next_one_clears_up(dvc: Versions, checkout: Path) -> None:
    make_folder(Path("images"))
    ingest.ingest(settings())
    before = contents()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=checkout, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert contents() == before
    assert Path("data/.raw.new/spill-0").exists()
    ingest.ingest(settings())
    assert contents() == before
    assert sorted(path.name for path in paths.RAW.parent.iterdir()) == ["raw", "split.csv"]


def test_a_kill_between_the_two_renames_is_mended_by_the_next_ingest(dvc: Versions) -> None:
    make_folder(Path("images"))
    ingest.ingest(settings())
    before = contents()
    paths.RAW.rename("data/.raw.old")
    make_folder(Path("images"), count=1)
    for path in Path("images/cat").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="cat: the folder holds no image"):
        ingest.ingest(settings())
    assert contents() == before


def test_a_failed_second_rename_puts_the_old_data_back(dvc: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(Path("images"))
    ingest.ingest(settings())
    before = contents()
    rename = Path.rename

    def fail_for_new(self: Path, target: Path) -> Path:
        if self.name == ".raw.new":
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="no space"):
        ingest.ingest(settings())
    assert contents() == before


def test_two_ingests_at_once_are_refused_in_one_sentence(dvc: Versions) -> None:
    make_folder(Path("images"))
    ingest.LOCK.parent.mkdir(parents=True)
    with FileLock(ingest.LOCK), pytest.raises(ValueError, match="another ingest is running"):
        ingest.ingest(settings())


def write_settings(data: dict[str, object]) -> None:
    values = yaml.safe_load((PRESETS / "digits.yaml").read_text())
    values["data"] |= data
    values["train"]["recipe"]["batch_size"] = 8
    paths.PARAMS.write_text(yaml.safe_dump(values))


def test_the_command_says_what_there_is_and_ends_with_0(dvc: Versions, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(Path("images"))
    write_settings({"source": "folder", "path": "images"})
    assert ingest.main([]) == 0
    assert capsys.readouterr().out.startswith("60 images of 2 classes in data/raw; 0 refused")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"source": "folder", "path": "nowhere"}, "error: data.path is 'nowhere', which is no folder"),
        ({"source": "parquet", "path": "nowhere"}, "error: data.path is 'nowhere', which is not there"),
        ({"source": "imagenet"}, "data.source is 'imagenet'; use digits, folder, parquet"),
    ],
)
def test_a_mistake_is_one_sentence_and_2_and_nothing_is_written(
    data: dict[str, object], sentence: str, dvc: Versions, capsys: pytest.CaptureFixture[str]
) -> None:
    write_settings(data)
    assert ingest.main([]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said
    assert not Path("data").exists()


def test_help_explains_the_command_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ingest.main(["--help"])
    assert ended.value.code == 0
    assert "python -m flows.ingest" in capsys.readouterr().out
