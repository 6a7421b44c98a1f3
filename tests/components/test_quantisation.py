"""The int8 file: which operators become integers, ranges from all images, the same bytes, the same answers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from components.settings.export import Export
from components.shipping.evaluation import onnx_logits
from components.shipping.export import read_metadata
from components.shipping.quantisation import BATCH, convert, integer_nodes, lacks_vnni, tensor_ranges
from tests.components.test_export import exported

ROOT = Path(__file__).resolve().parents[2]
INT8 = Export(quantize="int8", reduce_range=False)
IMAGES = (load_digits().images[:80, :, :, None] * 15).astype(np.uint8)


@pytest.fixture(scope="module")
def exact() -> bytes:
    """The float file, its blocks: an inverted bottleneck, a residual block, squeeze-excite."""
    return exported()


@pytest.fixture(scope="module")
def quantised(exact: bytes) -> bytes:
    return convert(onnx.load_from_string(exact), IMAGES, INT8).SerializeToString(deterministic=True)


def weights_of(model: bytes) -> np.ndarray:
    tensors = onnx.load_from_string(model).graph.initializer
    return np.concatenate([numpy_helper.to_array(t).ravel() for t in tensors if t.name.endswith("weight_quantized")])


# By hand


def test_integers_start_behind_the_first_convolution_and_leave_gates_and_classifier_alone() -> None:
    steps = [
        ("Mul", "x scale", "scaled"), ("Conv", "scaled w", "first"), ("Relu", "first", "a"), ("Conv", "a w", "b"),
        ("ReduceMean", "b", "mean"), ("Conv", "mean w", "squeezed"), ("Relu", "squeezed", "s"), ("Conv", "s w", "e"),
        ("HardSigmoid", "e", "gate"), ("Mul", "b gate", "gated"), ("Add", "a gated", "sum"),
        ("MaxPool", "sum", "smaller"), ("ReduceMean", "smaller", "pooled"), ("Gemm", "pooled w", "logits"),
    ]  # fmt: skip
    nodes = [helper.make_node(kind, takes.split(), [gives], name=f"to {gives}") for kind, takes, gives in steps]
    graph = helper.make_graph(nodes, "by hand", [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)], [])
    assert integer_nodes(graph) == ["to a", "to b", "to gated", "to sum", "to smaller"]


def test_a_range_goes_from_the_smallest_to_the_largest_value_of_all_images() -> None:
    image = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 1, 1, 1])
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 1, 1])
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], "g", [image], [value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    images = np.full((BATCH + 2, 1, 1, 1), 7, dtype=np.uint8)
    images[0], images[-1] = 250, 3  # in the first batch, and in the last
    assert [float(end) for end in tensor_ranges(model, images)["y"].range_value] == [3.0, 250.0]


@pytest.mark.parametrize(
    ("machine", "info", "lacks"),
    [
        ("x86_64", "flags\t\t: sse avx2", True),
        ("x86_64", "flags\t\t: avx2 avx_vnni", False),
        ("AMD64", "model name: x\nflags\t\t: avx512f avx512_vnni", False),
        ("x86_64", "", True),
        ("aarch64", "Features\t: fp asimd", False),
        ("arm64", "", False),
    ],
)
def test_weights_lose_a_bit_on_x86_processors_without_vnni(machine: str, info: str, lacks: bool) -> None:
    assert lacks_vnni(machine, info) is lacks


# The shipped file


def test_the_int8_file_takes_and_gives_what_the_float_file_does(exact: bytes, quantised: bytes) -> None:
    before, after = (onnx.load_from_string(model).graph for model in (exact, quantised))
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)
    assert read_metadata(quantised) == read_metadata(exact) | {"quantize": "int8", "weight_bits": "8"}


def test_its_logits_are_near_those_of_the_float_file_at_any_batch_size(exact: bytes, quantised: bytes) -> None:
    expected = onnx_logits(exact, IMAGES)
    off = np.abs(onnx_logits(quantised, IMAGES, batch_size=7) - expected)
    assert 0 < off.max() < 0.1 * np.ptp(expected)


def test_weights_of_seven_bits_where_asked_for(exact: bytes, quantised: bytes) -> None:
    reduced = convert(onnx.load_from_string(exact), IMAGES, Export(quantize="int8", reduce_range=True))
    assert np.abs(weights_of(quantised)).max() == 127
    assert np.abs(weights_of(reduced.SerializeToString())).max() == 64
    assert read_metadata(reduced.SerializeToString())["weight_bits"] == "7"


def test_without_quantisation_the_file_ships_as_it_was_exported(exact: bytes) -> None:
    assert convert(onnx.load_from_string(exact), IMAGES, Export()).SerializeToString(deterministic=True) == exact


def test_another_process_gives_the_same_bytes(exact: bytes, quantised: bytes, tmp_path: Path) -> None:
    (tmp_path / "float.onnx").write_bytes(exact)
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import sys, numpy, onnx\n"
        "from components.settings.export import Export\n"
        "from components.shipping.quantisation import convert\n"
        "settings = Export(quantize='int8', reduce_range=False)\n"
        "model = convert(onnx.load('float.onnx'), numpy.load('images.npy'), settings)\n"
        "sys.stdout.buffer.write(model.SerializeToString(deterministic=True))"
    )
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout.endswith(quantised)
