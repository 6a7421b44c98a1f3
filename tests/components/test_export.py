"""The shipped file: raw images in, the network's own logits out, bytes that depend on the model alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits

from components.architecture.network import Network, build_network
from components.architecture.space import format_architecture, space_of
from components.data.store import Classes
from components.settings.architecture import Architecture
from components.shipping.evaluation import onnx_logits
from components.shipping.export import export_network, read_metadata
from components.training.inference import predict

ROOT = Path(__file__).resolve().parents[2]
CLASSES = Classes(names=("zero", "eins", "zwei"), size=8, channels=1)
BLOCKS = ("mb_k3_e3", "res_k3", "mb_k5_e2_se")


def network() -> Network:
    settings = Architecture(
        stem=8,
        stem_stride=1,
        stages=((8, 1, 1), (12, 2, 2)),
        blocks=BLOCKS,
        warmup_epochs=0.0,
        stage_epochs=0.0,
    )
    return build_network(space_of(settings, CLASSES), BLOCKS, (0.3,), (0.4,), seed=3)


def exported() -> bytes:
    return export_network(network(), CLASSES, format_architecture(BLOCKS)).SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def model() -> bytes:
    return exported()


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_logits_are_those_of_torch_on_real_images_at_any_batch_size(model: bytes, batch: int) -> None:
    images = (load_digits().images[:batch, :, :, None] * 15).astype(np.uint8)
    expected = predict(network(), torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert np.abs(onnx_logits(model, images) - expected).max() < 1e-4


def test_the_file_stands_on_its_own(model: bytes) -> None:
    metadata = read_metadata(model)
    assert json.loads(metadata["classes"]) == ["zero", "eins", "zwei"]
    assert (metadata["size"], metadata["channels"]) == ("8", "1")
    assert metadata["architecture"] == "|".join(BLOCKS)
    graph = onnx.load_from_string(model).graph
    assert [value.name for value in graph.input] == ["images"]
    assert [value.name for value in graph.output] == ["logits", "probabilities"]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_file_says_nothing_about_where_it_was_made(model: bytes) -> None:
    for word in (str(ROOT), "site-packages", "components/", ".py", "torch.nn"):
        assert word.encode() not in model, word


def test_another_process_at_another_path_gives_the_same_bytes(model: bytes, tmp_path: Path) -> None:
    for package in ("components", "tests"):
        (tmp_path / package).mkdir()
    code = "import sys; from tests.components.test_export import exported; sys.stdout.buffer.write(exported())"
    copy = f"cp -r {ROOT}/components {ROOT}/tests ."
    subprocess.run(copy, shell=True, cwd=tmp_path, check=True)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.endswith(model)
