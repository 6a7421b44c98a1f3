"""What is made once for all tests of a session, and copied: both workers find it in the folder above their own."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from flows.tracking import connection
from tests.clones import ROOT, fresh_clone, run

TINY = ROOT / "tests" / "tiny.yaml"
SEARCHED = ("architecture", "augmentation", "loss", "race", "train@searched", "train@baseline")


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The session's temporary folder, also of the other workers."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def put_empty_store(folder: Path, factory: pytest.TempPathFactory) -> None:
    """MLflow's tables with nothing in them, where a line in the folder keeps them: to make them takes seconds."""
    template = shared_folder(factory) / "empty" / "mlflow.db"
    with FileLock(template.parent.with_suffix(".lock")):
        if not template.exists():
            template.parent.mkdir()
            connection.create_tables(template)
    (folder / "mlflow" / "store").mkdir(parents=True)
    shutil.copy(template, folder / "mlflow" / "store")


def tiny_line(factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` alone ran every stage, once a session: for one file of tests, which may change it.

    Searches and trainings ran while the test split was away; what DVC printed of them lies beside the clone.
    """
    clone = shared_folder(factory) / "line"
    with FileLock(clone.with_suffix(".lock")):
        if not kept_cache(clone).exists():
            run_line(clone)
            draft = clone.with_suffix(".draft")
            shutil.copytree(clone / ".dvc" / "cache", draft)
            draft.rename(kept_cache(clone))
    return clone


def run_line(clone: Path) -> None:
    shutil.rmtree(clone, ignore_errors=True)  # what a test left that ran out of time
    fresh_clone(clone, TINY)
    run(clone, "-m", "flows.ingest")
    run(clone, "-m", "dvc", "repro", "prepare", "latency")
    test, hidden = clone / "data" / "prepared" / "test", clone.with_suffix(".hidden")
    test.rename(hidden)
    done = run(clone, "-m", "dvc", "repro", "--single-item", *SEARCHED)
    hidden.rename(test)
    without_test_split(clone).write_text(done.stdout)
    run(clone, "-m", "dvc", "repro")


def without_test_split(clone: Path) -> Path:
    """What DVC printed while there was none; in the clone it would be a change that git sees."""
    return clone.with_suffix(".log")


def kept_cache(clone: Path) -> Path:
    return clone.with_suffix(".cache")


def put_tiny_cache(clone: Path, factory: pytest.TempPathFactory) -> None:
    """DVC's record of the tiny line's runs, and their bytes: stages with the same inputs are not computed again."""
    shutil.copytree(kept_cache(tiny_line(factory)), clone / ".dvc" / "cache", dirs_exist_ok=True)
