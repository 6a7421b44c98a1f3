"""What could not be kept in the end is refused in one sentence before the first image is read, and nothing changes."""

import dataclasses
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest
import yaml
from prefect.settings import temporary_settings

from components.settings.data import Data
from components.settings.params import Params
from flows import ingest
from flows.checkout import commits, paths, versions
from flows.checkout.readiness import require_data_ready, require_room
from flows.checkout.settings import load_params
from flows.schedule import readiness
from flows.settings import PRESETS

PARAMS = load_params(PRESETS / "digits.yaml")
IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@localhost")
CONFLICT = "outs:\n<<<<<<< HEAD\n- md5: 1\n=======\n- md5: 2\n>>>>>>> theirs\n  path: x\n"
PIPELINE = {"stages": {"work": {"cmd": "python work.py", "outs": ["results/latency"]}}}


def git(*arguments: str) -> None:
    subprocess.run(["git", *IDENTITY, *arguments], check=True, capture_output=True)


def write(name: str, text: str = "a person's") -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a pipeline, before the first ingest."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        git("init", "-q")
        subprocess.run(versions.dvc("init", "-q"), check=True)
        write("dvc.yaml", yaml.safe_dump(PIPELINE))
        git("add", "-A")
        git("commit", "-q", "-m", "a")
    return folder


@pytest.fixture(autouse=True)
def repo(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repo"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Prefect's own folder, and no server elsewhere."""
    with temporary_settings({"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": None}):
        yield tmp_path / "home"


def contents(folder: Path) -> dict[str, bytes | str]:
    """Of every file but DVC's temporary ones; of a link where it leads."""
    files = (file for file in folder.rglob("*") if ".dvc/tmp" not in file.as_posix())
    return {
        str(file): str(file.readlink()) if file.is_symlink() else file.read_bytes()
        for file in files
        if file.is_symlink() or file.is_file()
    }


def no_image_may_be_read(*of: object) -> NoReturn:
    raise AssertionError("an image was read")


# ---------------------------------------------------------------- before an ingest


def link_data(folder: Path) -> None:
    (folder.parent / "large").mkdir()
    Path("data").symlink_to(folder.parent / "large")


def kept_by_git(name: str) -> Callable[[Path], None]:
    def keep(folder: Path) -> None:
        write(name)
        git("add", "-f", name)

    return keep


def unwritable_cache(folder: Path) -> None:
    write(".dvc/config.local", f"[cache]\n    dir = {folder.parent}/file/cache\n")
    write("../file")


SPOILT: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "files of a person's": (lambda _: write("data/raw/cat.png"), r"data/raw holds data/raw/cat\.png, which no ingest"),
    "data is a link": (link_data, "data is a link to"),
    "raw is a file": (lambda _: write("data/raw"), "data/raw is no folder"),
    "another record": (lambda _: write("data/split.csv", "my,own\n1,2\n"), r"data/split\.csv"),
    "merged data": (lambda _: write("data/raw.dvc", CONFLICT), r"data/raw\.dvc is not as DVC writes it.*git checkout"),
    "merged splits": (lambda _: write("data/split.csv.dvc", CONFLICT), r"data/split\.csv\.dvc is not as DVC writes"),
    "empty pointer": (lambda _: write("data/raw.dvc", ""), r"data/raw\.dvc is not as DVC writes it"),
    "merged lock": (lambda _: write("dvc.lock", CONFLICT), r"dvc\.lock.*; restore it with git, or remove it"),
    "merged pipeline": (lambda _: write("dvc.yaml", CONFLICT), r"dvc\.yaml.*; restore it with git"),
    "other merged data": (lambda _: write("mine.dvc", CONFLICT), r"mine\.dvc.*; take one side with `git checkout"),
    "other broken data": (lambda _: write("mine.dvc", "a: b"), r"mine\.dvc.*; it is not as DVC writes it"),
    "no git": (lambda _: shutil.rmtree(".git"), "not a git repository; run `git init`.*no_scm"),
    "record kept by git": (kept_by_git("data/split.csv"), r"git keeps data/split\.csv.*`git rm -r --cached`"),
    "output kept by git": (kept_by_git("results/latency/table.json"), r"git keeps results/latency/table\.json"),
    "ignored by git": (lambda _: write(".gitignore", "data\n"), r"git-ignored; take the line that ignores it out"),
    "cache not writable": (unwritable_cache, r"file/cache/files/md5 cannot be written to \(Not a directory\)"),
}
"""What is wrong -> how it came about, what is said."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spoilt", SPOILT)
def test_what_could_not_be_kept_is_refused_before_an_image_is_read(spoilt: str, repo: Path) -> None:
    spoil, said = SPOILT[spoilt]
    spoil(repo)
    before = contents(repo)
    with pytest.raises(ValueError, match=said) as refused:
        ingest.ingest(PARAMS, no_image_may_be_read)
    assert "\n" not in str(refused.value)
    assert contents(repo) == before


def test_the_probe_above_would_see_an_image_read() -> None:
    with pytest.raises(AssertionError, match="an image was read"):
        ingest.ingest(PARAMS, no_image_may_be_read)


def test_a_refused_ingest_ends_with_2_and_one_sentence(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(PRESETS / "digits.yaml", paths.PARAMS)
    write("data/raw/cat.png")
    assert ingest.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: data/raw holds data/raw/cat.png")
    assert err.count("\n") == 1


def test_where_all_is_well_nothing_is_said_and_nothing_left(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(repo)
    require_data_ready(PARAMS)
    assert contents(repo) == before
    assert not Path("data").exists()
    assert capsys.readouterr() == ("", "")


def test_splits_that_are_gone_are_asked_for_before_an_image_is_read(repo: Path) -> None:
    """The images would move between the splits."""
    ingest.ingest(PARAMS)
    splits = ingest.recorded_splits()
    paths.SPLIT.unlink()
    assert ingest.recorded_splits() == splits  # DVC's cache has it
    shutil.rmtree(".dvc/cache")
    before = contents(repo)
    with pytest.raises(ValueError, match=r"data/split\.csv is missing, .*`dvc pull data/split\.csv`, or remove"):
        ingest.ingest(PARAMS, no_image_may_be_read)
    assert contents(repo) == before


def test_a_source_larger_than_the_disk_is_refused_with_both_sizes(repo: Path) -> None:
    write("images/cat/1.png")
    free = shutil.disk_usage(repo).free
    os.truncate("images/cat/1.png", 2 * free)  # a sparse file: it takes no room itself
    params = folder_of(PARAMS, "images")
    with pytest.raises(ValueError, match=r"the line will write about .* GB to the disk of .*, which has .* GB left"):
        require_room(params)


def folder_of(params: Params, path: str) -> Params:
    return dataclasses.replace(params, data=Data(source="folder", path=path, size=8, val=0.2, test=0.2))


# ---------------------------------------------------------------- what git says


def uncommitted(patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(".git")
    git("init", "-q")


COMPLAINTS: Mapping[str, tuple[Callable[[pytest.MonkeyPatch], object], str]] = {
    "no commit": (uncommitted, "there is no commit yet"),
    "another's": (lambda patch: patch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1"), "detected dubious ownership"),
    "not installed": (lambda patch: patch.setenv("PATH", "/nowhere"), "git is not installed"),
}


@pytest.mark.parametrize("why", COMPLAINTS)
def test_git_that_does_not_answer_is_a_warning_and_never_a_clean_commit(
    why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bring_about, said = COMPLAINTS[why]
    bring_about(monkeypatch)
    require_data_ready(PARAMS)
    warning = capsys.readouterr().err
    assert warning.startswith("warning: git does not say which code this is (")
    assert said in warning
    assert warning.count("\n") == 1
    assert commits.code_tags() == {"git.commit": "unknown", "git.dirty": "unknown"}


# ---------------------------------------------------------------- before a retrain


def link_results(folder: Path) -> None:
    Path("results").symlink_to(folder)


RETRAIN: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a person's output": (lambda _: write("results/latency/mine.json"), r"results/latency/mine\.json lies where stage"),
    "results is a link": (link_results, "results is a link to"),
    "results is a file": (lambda _: write("results"), r"results cannot be written to \(Not a directory\)"),
    "checkpoints is a file": (lambda _: write("checkpoints"), "checkpoints cannot be written to"),
    "another's store": (lambda _: write("mlflow/store/mlflow.db", "text " * 99), "MLflow cannot be used at .*database"),
    "Prefect's home": (lambda home: home.write_text("a file"), "Prefect cannot write to its folder .*set PREFECT_HOME"),
}


@pytest.mark.parametrize("spoilt", RETRAIN)
def test_what_a_retrain_could_not_write_is_refused_at_its_start(spoilt: str, repo: Path, home: Path) -> None:
    spoil, said = RETRAIN[spoilt]
    spoil(home)
    before = contents(repo)
    with pytest.raises(ValueError, match=said) as refused:
        readiness.require_ready(PARAMS)
    assert "\n" not in str(refused.value)
    assert contents(repo) == before


def test_where_all_is_well_a_retrain_starts(repo: Path, home: Path) -> None:
    before = contents(repo)
    readiness.require_ready(PARAMS)
    assert contents(repo) == before


def database(place: Path, *statements: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(place)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def of_revision(revision: str) -> tuple[str, str]:
    return "CREATE TABLE alembic_version (version_num TEXT)", f"INSERT INTO alembic_version VALUES ('{revision}')"


def test_prefects_database_of_a_later_version_is_refused_with_its_place(home: Path) -> None:
    database(home / "prefect.db", *of_revision("0" * 12))
    with pytest.raises(ValueError, match=rf"its database {home}/prefect\.db \(it is of another version.*, revision 0+"):
        readiness.require_prefect()


def test_a_file_that_is_no_database_is_not_prefects(home: Path) -> None:
    home.mkdir()
    (home / "prefect.db").write_text("text " * 99)
    with pytest.raises(ValueError, match=r"prefect\.db \(file is not a database\); set PREFECT_HOME to another folder"):
        readiness.require_prefect()


def test_prefects_database_of_this_version_or_new_is_taken(home: Path) -> None:
    known = readiness.revisions()
    assert len(known) > 10
    readiness.require_prefect()  # none yet
    database(home / "prefect.db")
    readiness.require_prefect()  # without a table yet
    database(home / "prefect.db", *of_revision(min(known)))
    readiness.require_prefect()


def test_of_a_server_elsewhere_no_database_is_asked_here(home: Path) -> None:
    database(home / "prefect.db", *of_revision("0" * 12))
    with temporary_settings({"PREFECT_API_URL": "http://127.0.0.1:9/api"}):
        readiness.require_prefect()
