"""The script of the paper's setting at a toy size: every method runs and leaves a result file, on two devices alike."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.benchmarks.augmentation_scale import METHODS, arguments_of, main, splits, table
from tests.benchmarks.cifar_networks import NETWORKS
from tests.elsewhere import elsewhere

PARAMETERS = {"resnet18": 11_173_952, "wrn28_10": 36_479_184}
"""As published, without the classifier's 10 biases."""


def write_images(path: Path, count: int) -> Path:
    rng = np.random.default_rng(count)
    rows = []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, format="PNG")
        rows.append({"bytes": file.getvalue(), "path": None})
    pq.write_table(pa.table({"image": rows, "label": rng.integers(0, 10, count)}), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("cifar") / "train.parquet", 200)


def measured(data: Path, out: Path, *more: str) -> dict[str, Any]:
    command = ["--data", str(data), "--out", str(out), "--network", "tiny", "--copies", "2", "--trunks", "2"]
    assert main([*command, "--commit", "abc", *more]) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_result_file(method: str, data: Path, tmp_path: Path) -> None:
    result = measured(data, tmp_path / "augmentation_scale.json", "--device", "cpu", "--method", method)
    assert result["name"] == "augmentation_scale"
    assert set(result["protocol"]) == {"commit", "hardware", "versions", "seeds", "date", "command"}
    first, last = result["rows"]
    assert first.keys() == last.keys()
    assert first["reward_worst"] <= first["reward_mean"] <= first["reward_best"]
    assert first["test_accuracy"] is None
    assert 0 <= last["test_accuracy"] <= 1
    assert f"| tiny | {method} | cpu | 2 | 2 | 150 |" in table(result["rows"])


def test_another_device_gives_the_same_rewards(data: Path, tmp_path: Path) -> None:
    here = measured(data, tmp_path / "here.json", "--device", "cpu")
    with elsewhere() as device:
        there = measured(data, tmp_path / "there.json", "--device", str(device))
    for ours, theirs in zip(here["rows"], there["rows"], strict=True):
        assert theirs.pop("device") == str(device)
        assert {key: ours[key] for key in theirs if key != "seconds"} == {
            key: theirs[key] for key in theirs if key != "seconds"
        }


def test_the_splits_are_the_papers_shares_and_never_overlap(data: Path, tmp_path: Path) -> None:
    sizes = {"alone": (150, 16, 34), "with_test": (180, 20, 30)}
    test = write_images(tmp_path / "test.parquet", 30)
    for name, more in {"alone": [], "with_test": ["--test", str(test)]}.items():
        parts = splits(arguments_of(["--data", str(data), *more]))
        assert tuple(len(part.labels) for part in parts) == sizes[name]
        images = np.concatenate([part.images for part in parts]).reshape(-1, 32 * 32 * 3)
        assert len(np.unique(images, axis=0)) == len(images)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_networks_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        network = NETWORKS[name]()
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


def test_it_needs_no_orchestrator_and_no_tracker() -> None:
    """A GPU machine has torch and little else."""
    code = "import sys, tests.benchmarks.augmentation_scale; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    absent = {"prefect", "mlflow", "dvc", "pydantic", "joblib", "sklearn", "onnx", "matplotlib", "flows"}
    assert not absent & {name.split(".")[0] for name in loaded}
