"""What a person put where the line writes is looked at first, refused by name, and stays byte for byte."""

import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components.data.raw import FIELDS
from flows.checkout import ownership, versions

OUTS = ["results/latency/table.json", "data/prepared/train"]
PIPELINE = {"stages": {"work": {"cmd": "python work.py", "deps": ["work.py"], "outs": OUTS}}}
WORK = """
import pathlib
for name in ("results/latency/table.json", "data/prepared/train/a", "data/prepared/train/b"):
    place = pathlib.Path(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(name)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository with one stage that writes a file and a folder, and has run."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    (folder / "work.py").write_text(WORK)
    subprocess.run(versions.dvc("init", "-q", "--no-scm"), cwd=folder, check=True)
    subprocess.run(versions.dvc("repro", "-q"), cwd=folder, env=versions.stage_environment(), check=True)
    return folder


@pytest.fixture
def ran(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fresh(ran: Path) -> Path:
    """The same before its first run."""
    for name in ("results", "data", ".dvc/cache"):
        shutil.rmtree(name)
    versions.LOCK.unlink()
    return ran


def write(name: str, text: str = "a person's") -> Path:
    place = Path(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # it may be a hard link into DVC's cache
    place.write_text(text)
    return place


# ---------------------------------------------------------------- data/raw and the source


@pytest.mark.parametrize("name", ["notes.txt", "images-0.parquet", "cat/1.png", "validation.json/x", ".hidden"])
def test_what_no_ingest_wrote_is_refused_by_name_and_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = write(f"data/raw/{name}")
    with pytest.raises(ValueError, match=rf"data/raw holds data/raw/{name.split('/')[0]}, which no ingest wrote"):
        ownership.require_own_raw()
    assert place.read_text() == "a person's"


def test_what_an_ingest_left_that_was_interrupted_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("data/raw/validation.json", '{"a person": "has one too"}')
    with pytest.raises(ValueError, match=r"validation\.json, which no ingest wrote"):
        ownership.require_own_raw()
    write("data/raw/validation.json", '{"source": "", "counts": {}, "rules": {}, "classes": {}}')
    pq.write_table(pa.Table.from_pylist([], schema=FIELDS), "data/raw/images-0.parquet")
    ownership.require_own_raw()
    write("data/raw/images-1.parquet", "edited")
    with pytest.raises(ValueError, match=r"images-1\.parquet, which no ingest wrote"):
        ownership.require_own_raw()
    write("data/raw.dvc", "a data version")
    ownership.require_own_raw()  # DVC's cache has what it was
    write("data/.raw.new/spill-0", "half an image")
    ownership.require_own_raw()
    write("data/.raw.old/mine.txt", "a person's")
    with pytest.raises(ValueError, match=r"\.raw\.old/mine\.txt, which no ingest wrote"):
        ownership.require_own_raw()


@pytest.mark.parametrize(("place", "link"), [("data/raw", "data/raw"), ("data/raw", "data"), ("results", "results")])
def test_a_link_is_refused_with_dvcs_way_to_another_disk(
    place: str, link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("elsewhere").mkdir()
    Path(link).parent.mkdir(exist_ok=True)
    Path(link).symlink_to(Path("elsewhere").absolute())
    with pytest.raises(ValueError, match=rf"^{link} is a link to .*elsewhere.*`dvc cache dir PATH`"):
        ownership.require_no_link(Path(place))


@pytest.mark.parametrize("file", ["data", "data/raw"])
def test_a_file_in_the_place_of_a_folder_is_refused(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(file)
    with pytest.raises(ValueError, match=f"^{file} is no folder"):
        ownership.require_own_raw()


@pytest.mark.parametrize("source", ["data/raw", "data/raw/mine", "data/prepared", "results/x", ".", "data", "link"])
def test_a_source_in_or_around_what_the_line_writes_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/raw/mine").mkdir(parents=True)
    Path("link").symlink_to("data/raw")
    with pytest.raises(ValueError, match=f"^data.path is '{source}', "):
        ownership.require_apart(source)


@pytest.mark.parametrize("source", [None, "images", "data/images", "data/raw.tar"])
def test_a_source_beside_it_is_taken(source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ownership.require_apart(source)


# ---------------------------------------------------------------- outputs of stages


@pytest.mark.parametrize("name", ["results/latency/table.json", "data/prepared/train/notes.txt"])
def test_a_persons_file_where_a_stage_writes_is_refused_before_the_first_run(name: str, fresh: Path) -> None:
    place = write(name)
    with pytest.raises(ValueError, match=rf"^{name} lies where stage work writes, is not in DVC's cache"):
        ownership.require_own_outputs()
    assert place.read_text() == "a person's"


def test_files_beside_the_outputs_are_a_persons_own_affair(fresh: Path) -> None:
    write("results/latency/notes.txt")
    write("data/prepared/notes.txt")
    ownership.require_own_outputs()


@pytest.mark.parametrize("name", ["results/latency/table.json", "data/prepared/train/a", "data/prepared/train/new"])
def test_after_a_run_only_what_a_person_changed_is_refused(name: str, ran: Path) -> None:
    ownership.require_own_outputs()
    write(name)
    with pytest.raises(ValueError, match=rf"^{name} lies where"):
        ownership.require_own_outputs("work")


def test_what_the_lock_names_is_the_lines_own_without_dvcs_cache(ran: Path) -> None:
    shutil.rmtree(".dvc/cache")
    ownership.require_own_outputs()
    write("results/latency/table.json")
    with pytest.raises(ValueError, match=r"table\.json lies where"):
        ownership.require_own_outputs()


def test_a_stage_that_was_killed_is_started_again(ran: Path) -> None:
    ownership.begin("work")
    write("results/latency/table.json", "half")
    ownership.require_own_outputs()


@pytest.mark.parametrize("first", [True, False])
def test_a_stage_that_was_run_by_hand_is_the_lines_own_until_somebody_edits_it(
    first: bool, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("fresh" if first else "ran")
    ownership.begin("work")
    write("results/latency/table.json", "by hand")
    write("data/prepared/train/a", "by hand")
    ownership.finish("work")
    ownership.require_own_outputs()
    write("results/latency/table.json")
    with pytest.raises(ValueError, match=r"^results/latency/table\.json lies where"):
        ownership.require_own_outputs()


def test_the_account_of_one_stage_says_nothing_of_anothers_files(ran: Path) -> None:
    ownership.begin("other")
    write("results/latency/table.json")
    with pytest.raises(ValueError, match="lies where stage work writes"):
        ownership.require_own_outputs()
