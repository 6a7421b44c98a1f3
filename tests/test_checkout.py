"""The check that no test changes the checkout: shown on the fixture that once deleted params.yaml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import Watch
from tests.clones import ROOT

REMOVED_AFTER = '''
from pathlib import Path
import pytest

@pytest.fixture
def params(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

@pytest.fixture
def removed_after():
    """As it was in commit 7c94e67: its end comes after `params` has gone back to the checkout."""
    yield
    Path("params.yaml").unlink(missing_ok=True)

def test_before(): pass

def test_culprit(removed_after, params):
    Path("params.yaml").write_text("mine")

def test_after(): pass
'''
HONEST = """
def test_writes_into_its_own_folder(tmp_path):
    (tmp_path / "params.yaml").write_text("mine")
"""
ADDS = """
from pathlib import Path

def test_leaves_a_file(): Path("data/left").write_text("x")

def test_leaves_what_git_ignores(): Path("data/raw").write_text("x")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small repository whose tests are watched as ours are."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("__init__.py", "checkout.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    (tmp_path / "params.yaml").write_text("theirs")
    (tmp_path / ".gitignore").write_text("__pycache__\n/data/raw\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def run(checkout: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    (checkout / "tests" / "test_one.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_the_fixture_that_deleted_the_settings_is_named(checkout: Path, workers: tuple[str, ...]) -> None:
    done = run(checkout, REMOVED_AFTER, *workers)
    assert done.returncode == 1, done.stdout
    assert "3 passed" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("params.yaml was deleted during ")]
    assert "tests/test_one.py::test_culprit" in line


def test_a_file_left_behind_is_named_and_an_ignored_one_is_not(checkout: Path) -> None:
    done = run(checkout, ADDS)
    assert done.returncode == 1
    assert "data/left was added during tests/test_one.py::test_leaves_a_file" in done.stdout
    assert "data/raw" not in done.stdout


def test_tests_that_write_into_their_own_folders_pass(checkout: Path) -> None:
    done = run(checkout, HONEST)
    assert done.returncode == 0, done.stdout
    assert "changed the checkout" not in done.stdout


def test_an_edit_that_keeps_size_and_time_is_found_by_reading(checkout: Path) -> None:
    file = checkout / "params.yaml"
    watch, before = Watch(checkout), file.stat()
    file.write_text("THEIRS")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watch.look() == []
    assert [str(change) for change in watch.compare()] == ["params.yaml was edited"]
