"""DVC and git as the line uses them, on a pipeline of two small stages in a folder of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.checkout import commits, pipeline, versions
from tests.clones import ROOT

PIPELINE = {
    "stages": {
        "second": {"cmd": "python two.py", "deps": ["two.py", "first.txt"], "outs": ["second.txt"]},
        "first": {"cmd": "python one.py", "deps": ["one.py", "data/raw"], "params": ["word"], "outs": ["first.txt"]},
    }
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    (folder / "params.yaml").write_text("word: hello\n")
    (folder / "one.py").write_text("open('first.txt', 'w').write(open('data/raw/a').read())")
    (folder / "two.py").write_text("open('second.txt', 'w').write(open('first.txt').read() * 2)")
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "data" / "raw" / "a").write_text("a")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(versions.dvc("init", "-q"), cwd=folder, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        versions.add_data(Path("data/raw"))
    return folder


@pytest.fixture
def repo(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_stages_come_in_the_order_in_which_dvc_runs_them(repo: Path) -> None:
    assert pipeline.stage_order() == ["first", "second"]
    assert versions.run_dvc("repro").count("Running stage") == 2


@pytest.mark.parametrize("further", [[], ["budget_2", "budget_3"]])
def test_the_line_trains_and_measures_each_further_budget_and_has_no_such_stage_without(
    further: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    params = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
    params["train"]["variants"] += further
    Path("params.yaml").write_text(yaml.safe_dump(params))
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(versions.dvc("init", "-q"), check=True)
    order = pipeline.stage_order()
    searches = {"plan", "race", "prepare", "latency", "architecture", "augmentation", "loss"}
    variants = ["searched", "baseline", *further]
    assert set(order) == searches | {f"{word}@{variant}" for word in ("train", "evaluate") for variant in variants}
    assert all(order.index(f"train@{variant}") < order.index(f"evaluate@{variant}") for variant in variants)


def test_a_stages_inputs_before_the_run_are_what_dvc_locks_after_it(repo: Path) -> None:
    before = pipeline.stage_inputs("first")
    versions.run_dvc("repro", "--single-item", "first")
    locked = pipeline.locked_stage("first")
    assert locked is not None
    assert pipeline.stage_key(before) == pipeline.stage_key(locked)
    assert pipeline.output_hashes("first") == pipeline.hashes(locked, "outs")


@pytest.mark.parametrize(
    ("file", "text"), [("one.py", "pass"), ("data/raw/a", "b"), ("params.yaml", "word: bye\n"), ("data/raw/b", "new")]
)
def test_the_key_changes_with_code_data_and_parameters(repo: Path, file: str, text: str) -> None:
    before = pipeline.stage_inputs("first")
    Path(file).write_text(text)
    after = pipeline.stage_inputs("first")
    assert pipeline.stage_key(before) != pipeline.stage_key(after)
    assert pipeline.changed_inputs(before, after) == ["data/raw" if file.startswith("data") else file]
    assert pipeline.changed_inputs(after, after) == []


def test_a_data_version_is_named_by_its_content(repo: Path) -> None:
    first = versions.data_digest(Path("data/raw.dvc"))
    Path("data/raw/b").write_text("b")
    versions.add_data(Path("data/raw"))
    assert versions.data_digest(Path("data/raw.dvc")) != first
    Path("data/raw/b").unlink()
    versions.add_data(Path("data/raw"))
    assert versions.data_digest(Path("data/raw.dvc")) == first


def test_a_push_brings_the_data_to_the_remote_and_a_failure_is_one_sentence(repo: Path) -> None:
    assert not versions.has_remote()
    with pytest.raises(commits.VersionsError, match="remote"):
        versions.push_data(Path("data/raw.dvc"))
    subprocess.run(versions.dvc("remote", "add", "-q", "-d", "store", "remote"), check=True)
    assert versions.has_remote()
    versions.push_data(Path("data/raw.dvc"))
    assert len([file for file in Path("remote").rglob("*") if file.is_file()]) == 2


def test_outside_a_commit_git_says_none(repo: Path) -> None:
    assert commits.code_tags() == {"git.commit": "unknown", "git.dirty": "unknown"}


def test_the_dirty_flag_follows_tracked_files_only(repo: Path) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "a"], check=True)
    Path("untracked").write_text("x")
    assert commits.code_tags()["git.dirty"] == "false"
    Path("one.py").write_text("pass")
    assert commits.code_tags()["git.dirty"] == "true"


def test_python_of_a_stage_is_this_environments(repo: Path) -> None:
    found = subprocess.run(
        ["python", "-c", "import sys; print(sys.executable)"],
        env=versions.stage_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()).parent == Path(sys.executable).parent


@pytest.mark.parametrize("cut", ["    cmd: [", "    cmd: python one.py\n    deps:\n    - path"])
def test_a_truncated_lock_is_one_sentence_that_says_what_to_do(repo: Path, cut: str) -> None:
    versions.LOCK.write_text(f"schema: '2.0'\nstages:\n  first:\n{cut}")
    for look in (pipeline.stage_order, lambda: pipeline.stage_inputs("first")):
        with pytest.raises(commits.VersionsError, match=r"dvc\.lock.*; restore it with git, or remove it") as caught:
            look()
        assert "\n" not in str(caught.value)


def test_a_remote_that_is_not_configured_is_one_sentence(repo: Path) -> None:
    Path(".dvc/config.local").write_text("[core]\n    remote = gone\n")
    with pytest.raises(commits.VersionsError, match=r"`dvc --quiet --wait-for-lock push .*` failed: .*gone") as caught:
        versions.push_data(Path("data/raw.dvc"))
    assert "\n" not in str(caught.value)


def test_what_dvc_says_is_printed_without_its_hints(capfd: pytest.CaptureFixture[str]) -> None:
    """As DVC 3 ends a stage."""
    said = (
        "Running stage 'loss':\n> python -m flows.stage loss\nUpdating lock file 'dvc.lock'\n\n"
        "To track the changes with git, run:\n\n\tgit add dvc.lock\n\n"
        "To enable auto staging, run:\n\n\tdvc config core.autostage true\n"
        "Use `dvc push` to send your updates to remote storage.\n"
    )
    with versions.without_hints() as output:
        subprocess.run(["printf", "%s", said], stdout=output, check=True)
    assert capfd.readouterr().out == "Running stage 'loss':\n> python -m flows.stage loss\n"


def test_a_stage_is_unchanged_where_dvc_would_skip_it(repo: Path) -> None:
    assert not pipeline.unchanged("first"), "it never ran"
    subprocess.run(versions.dvc("repro", "--quiet"), env=versions.stage_environment(), check=True)
    assert pipeline.unchanged("first")
    assert pipeline.unchanged("second")
    Path("first.txt").write_text("edited")
    assert not pipeline.unchanged("first")
    subprocess.run(versions.dvc("repro", "--quiet"), env=versions.stage_environment(), check=True)
    Path("two.py").write_text(Path("two.py").read_text() + "# edited")
    assert pipeline.unchanged("first")
    assert not pipeline.unchanged("second")


def test_while_another_dvc_holds_the_folder_no_stage_is_called_unchanged(repo: Path) -> None:
    subprocess.run(versions.dvc("repro", "--quiet"), env=versions.stage_environment(), check=True)
    with versions.open_repo() as other, other.lock:
        assert not pipeline.unchanged("first")
    assert pipeline.unchanged("first")


def test_a_stage_that_refused_its_settings_gets_back_what_it_wrote_before(repo: Path) -> None:
    """DVC removes it before each run."""
    pipeline.restore("first")  # it never ran: there is nothing
    assert not Path("first.txt").exists()
    versions.run_dvc("repro")
    Path("one.py").write_text("raise SystemExit(2)")
    with pytest.raises(commits.VersionsError):
        versions.run_dvc("repro", "--single-item", "first")
    assert not Path("first.txt").exists()
    with versions.open_repo() as other, other.lock:
        pipeline.restore("first")  # the folder is another's: nothing happens
    assert not Path("first.txt").exists()
    pipeline.restore("first")
    assert Path("first.txt").read_text() == "a"
