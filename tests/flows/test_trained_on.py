"""Which images a registered model was trained on is read from what its training read, in DVC's cache."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.data.store import write_contents
from flows.checkout import paths, versions
from flows.release.trained_on import trained_on
from flows.tracking import stage_run

TRAINED = {"train": ["01" * 32, "02" * 32], "val": ["03" * 32]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with two splits in DVC's cache, and a finished run in MLflow that read them."""
    folder = tmp_path_factory.mktemp("checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        subprocess.run(["git", "init", "-q"], check=True)
        subprocess.run(versions.dvc("init", "-q"), check=True)
        for split, contents in TRAINED.items():
            (paths.PREPARED / split).mkdir(parents=True)
            write_contents(paths.PREPARED / split, contents)
        versions.add_data(paths.TRAIN, paths.VAL)
        deps = {
            f"dvc.dep.{split}": versions.data_digest(Path(f"{split}.dvc"))
            for split in map(str, (paths.TRAIN, paths.VAL))
        }
        for md5, tags in (("m", deps), ("gone", deps | {f"dvc.dep.{paths.VAL}": "0" * 32 + ".dir"})):
            run = stage_run.StageRun("train@searched", tags={f"dvc.out.{paths.MODEL}": md5, **tags})
            run.end("FINISHED")
        shutil.rmtree(paths.PREPARED)
        yield folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_train_and_val_are_what_a_model_was_trained_on() -> None:
    assert trained_on("m") == {bytes.fromhex(content) for contents in TRAINED.values() for content in contents}


def test_a_model_without_a_run_or_without_its_data_is_not_known() -> None:
    assert trained_on("another") is None
    assert trained_on("gone") is None
