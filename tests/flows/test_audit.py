"""A model is computed anew from what its version keeps, wherever the bytes lie and however it is interrupted."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.checkout import commits, files, paths, versions
from flows.lineage import records, reproduce
from flows.schedule import workspace
from tests.clones import ROOT

MODEL = paths.MODEL.as_posix()
CODE = "import os, sys; open(sys.argv[-1], 'w').write(''.join(map(lambda f: open(f).read(), sys.argv[1:-1])) + HERE)"
COPY = f'python -c "{CODE}"'.replace("HERE", "os.environ.get('WORD', '')")
"""Joins files, and adds a word that DVC does not know of."""


def stage(out: str, *inputs: str, **more: Any) -> dict[str, Any]:
    deps = [name.removesuffix("/a") for name in inputs]
    return {"cmd": f"{COPY} {' '.join(inputs)} {out}", "deps": deps, "outs": [out]} | more


PIPELINE = {
    "prepare": stage("prepared.txt", "data/raw/a"),
    "latency": stage("latency.txt", "params.yaml"),
    "loss": stage("loss.json", "prepared.txt", "latency.txt"),
    "train": stage(MODEL, "prepared.txt", "loss.json", matrix={"variant": ["searched"]}),
}


class Version(records.Records):
    """A version of whose records MLflow's part is in memory."""

    def __init__(self, number: int, before: "list[Version]") -> None:
        self.name, self.version, self.objects = "line", number, versions.Objects()
        self.title = f"line version {number}"
        kept = ("params.yaml", "dvc.yaml", "dvc.lock", "data/raw.dvc")
        self.files = {name: Path(name).read_bytes() for name in kept}
        self.tags = {f"{records.PREFIX}{name}": files.sha256(content) for name, content in self.files.items()} | {
            "md5": files.md5_of(paths.MODEL.read_bytes()),
            "git.commit": commits.code_tags()["git.commit"],
        }
        self.earlier_versions = list(before)

    def archived(self, name: str) -> bytes | None:
        return self.files.get(name)

    def before(self) -> "Iterator[Version]":
        yield from reversed(self.earlier_versions)


def dvc(*arguments: str) -> None:
    subprocess.run(versions.dvc(*arguments, "--quiet"), env=versions.stage_environment(), check=True)


def commit() -> None:
    commits.require_git(Path(), "add", "--all")
    commits.require_git(Path(), *workspace.IDENTITY, "commit", "--quiet", "-m", "the line")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line in little, whose `train` reads the images and what a search found on them."""
    folder = tmp_path_factory.mktemp("template") / "line"
    (folder / "data" / "raw").mkdir(parents=True)
    with contextlib.chdir(folder):
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}, sort_keys=False))
        Path("params.yaml").write_text("seed: 1\n")
        Path("data/raw/a").write_text("old images\n")
        commits.require_git(folder, "init", "--quiet")
        dvc("init")
        made([])
    return folder


@pytest.fixture
def first(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Version:
    """The version that such a line has made."""
    shutil.copytree(template, tmp_path / "line")
    monkeypatch.chdir(tmp_path / "line")
    return Version(1, [])


def made(before: list[Version]) -> Version:
    """What the line makes of the images now."""
    paths.MODEL.parent.mkdir(parents=True, exist_ok=True)
    dvc("add", "data/raw")
    dvc("repro")
    commit()
    return Version(len(before) + 1, before)


def reused(first: Version) -> Version:
    """The version after it: other images, the same search."""
    dvc("freeze", "loss")
    Path("data/raw/a").write_text("new images\n")
    return made([first])


def test_the_version_that_ran_a_kept_search_is_found_by_the_archived_files(first: Version) -> None:
    second = reused(first)
    third = Version(3, [first, second])
    assert (first.frozen(), third.frozen()) == (set(), {"loss"})
    assert (second.origin("loss"), third.origin("loss")) == (first, first)
    first.files["dvc.lock"] = first.files["dvc.lock"].replace(b"prepared.txt", b"other.txt")
    vars(first).pop("lock")
    assert third.origin("loss") is None


def test_a_version_whose_search_was_kept_is_computed_anew_with_that_search(first: Version) -> None:
    second = reused(first)
    assert paths.MODEL.read_text() == "new images\nold images\nseed: 1\n"
    for record in (first, second):
        found = reproduce.reproduce(record)
        assert (found.verdict, found.detail) == ("ok", f"md5 {record.tags['md5']}, the same")


def test_what_the_cache_no_longer_has_comes_from_the_remote_though_its_address_is_relative(first: Version) -> None:
    dvc("remote", "add", "--default", "storage", "../storage")  # after the version's commit
    dvc("push")
    shutil.rmtree(".dvc/cache")
    assert reproduce.reproduce(first).verdict == "ok"


def test_nothing_that_the_checkouts_cache_knows_is_taken_for_computed_anew(
    first: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else DVC's record of runs, which is in its cache, answers in place of the code."""
    Path(".dvc/cache").rename(tmp_path / "cache")
    dvc("cache", "dir", str(tmp_path / "cache"))
    commit()
    again = Version(1, [])
    monkeypatch.setenv("WORD", "other")
    assert "the first stage that differs is loss" in reproduce.reproduce(again).detail


def gone(number: int) -> bool:
    return not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_interrupted_audit_leaves_neither_process_nor_folder(first: Version, tmp_path: Path) -> None:
    busy = (
        "import os, time; open('../pid', 'w').write(str(os.getpid())); os.rename('../pid', '../here'); time.sleep(600)"
    )
    stages = {"busy": {"cmd": f'python -c "{busy}"', "outs": ["never"]}}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    script = (
        "import sys, tempfile, pathlib; from flows import audit; from flows.lineage import reproduce\n"
        "def work(uri, again):\n"
        "    with tempfile.TemporaryDirectory(dir='..', prefix='reproduce-'):\n"
        "        reproduce.run_in(pathlib.Path(), 'repro', 'busy')\n"
        "audit.audit = work\n"
        "sys.exit(audit.main(['models:/line/1', '--reproduce']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=versions.stage_environment() | {"PYTHONPATH": str(ROOT)}
    )
    wait_until((tmp_path / "here").exists)
    number = int((tmp_path / "here").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    wait_until(lambda: gone(number))
    assert list(tmp_path.glob("reproduce-*")) == []
