"""Costs counted without running a network, against the network itself, its file, and cases done by hand."""

import itertools
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from components.architecture.costs import Costs, block_costs, costs_of, count, ends_costs, space_ends, within_memory
from components.architecture.network import build_network
from components.architecture.space import Architecture, Layer, Space, candidates, format_architecture, space_of
from components.data.store import Classes
from components.settings.architecture import Architecture as ArchitectureSettings
from components.shipping.export import RawImages, export_network

CLASSES = Classes(names=tuple("0123456789"), size=16, channels=1)
BLOCKS = ("mb_k3_e3", "mb_k5_e6_se", "mb_k3_e1", "res_k3", "pool_k3", "identity")
MIXED: Architecture = ("mb_k3_e3", "mb_k5_e6_se", "res_k3", "res_k3", "identity")
LARGE: Architecture = ("mb_k5_e6_se",) * 5
SMALL: Architecture = ("mb_k3_e1", "identity", "mb_k3_e1", "identity", "identity")
POOLED: Architecture = ("pool_k3", "res_k3", "pool_k3", "res_k3", "identity")
NETWORKS = (MIXED, LARGE, SMALL, POOLED)


def settings(**changes: object) -> ArchitectureSettings:
    values: dict[str, object] = {
        "stem": 16,
        "stem_stride": 1,
        "stages": ((24, 2, 2), (48, 3, 2)),
        "blocks": BLOCKS,
        "warmup_epochs": 0.0,
        "stage_epochs": 0.0,
    }
    return ArchitectureSettings(**(values | changes))


SPACE = space_of(settings(), CLASSES)


def network(architecture: Architecture) -> nn.Module:
    """As after training: batch norms that shift and scale."""
    built = build_network(SPACE, architecture, (0.5,), (0.25,))
    rng = torch.Generator().manual_seed(0)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.rand(module.num_features, generator=rng)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=rng)
    return built


@pytest.mark.parametrize("architecture", NETWORKS)
def test_parameters_are_those_of_the_network(architecture: Architecture) -> None:
    assert costs_of(SPACE, architecture).parameters == sum(p.numel() for p in network(architecture).parameters())


@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_whole_network_counted_at_once_costs_what_its_parts_cost(architecture: Architecture) -> None:
    with torch.device("meta"):
        whole = RawImages(build_network(SPACE, architecture, (0.5,), (0.25,)).to("meta"))
        counted = count(whole, torch.empty((1, 16, 16, 1), dtype=torch.uint8))
    expected = costs_of(SPACE, architecture)
    assert (counted.flops, counted.memory_bytes) == (expected.flops, expected.memory_bytes)


@cache
def exported(architecture: Architecture) -> onnx.ModelProto:
    return export_network(network(architecture), CLASSES, format_architecture(architecture))


@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_file_is_as_large_as_estimated(architecture: Architecture) -> None:
    size = len(exported(architecture).SerializeToString(deterministic=True))
    assert costs_of(SPACE, architecture).file_bytes == pytest.approx(size, rel=0.03)


def test_by_hand_an_inverted_bottleneck() -> None:
    """6 -> 12 -> 12 -> 6 channels on 8 x 8 pixels, depthwise 3 x 3, with a shortcut."""
    costs = block_costs("mb_k3_e2", Layer(6, 6, 1, 8))
    assert costs.parameters == (6 * 12 + 2 * 12) + (9 * 12 + 2 * 12) + (12 * 6 + 2 * 6)
    assert costs.flops == 2 * 64 * (6 * 12 + 9 * 12 + 12 * 6)
    # most is alive while the depthwise convolution runs: the input (for the shortcut) and both wide activations
    assert costs.memory_bytes == 4 * 64 * (6 + 12 + 12)


def test_by_hand_without_a_shortcut_the_input_is_gone_after_the_first_convolution() -> None:
    costs = block_costs("mb_k3_e2", Layer(6, 10, 2, 8))
    assert costs.memory_bytes == 4 * 64 * (6 + 12)  # against 4 * (64 * 12 + 16 * 12) and 4 * 16 * (12 + 10)


def test_by_hand_a_residual_block_that_changes_the_shape_keeps_its_input_for_the_shortcut() -> None:
    costs = block_costs("res_k3", Layer(4, 8, 2, 8))
    assert costs.parameters == 4 * 8 * 9 + 8 * 8 * 9 + 4 * 8 + 3 * 2 * 8
    assert costs.flops == 2 * 16 * (4 * 8 * 9 + 8 * 8 * 9 + 4 * 8)
    # beside the input: 8 channels of the body before and after its second convolution, or body and shortcut
    assert costs.memory_bytes == 4 * (64 * 4 + 16 * (8 + 8))


def test_by_hand_pooling_comes_after_a_convolution_at_the_full_size() -> None:
    costs = block_costs("pool_k3_e2", Layer(4, 6, 2, 8))
    assert costs.parameters == 4 * 12 * 9 + 12 * 6 * 9 + 2 * 12 + 2 * 6
    assert costs.flops == 2 * (64 * 4 * 12 * 9 + 16 * 12 * 6 * 9)
    assert costs.memory_bytes == 4 * (64 * 4 + 64 * 12)  # the first convolution's input and output


def test_by_hand_a_gate_reads_the_activation_it_scales_in_place() -> None:
    plain, gated = block_costs("mb_k3_e2", Layer(8, 8, 1, 8)), block_costs("mb_k3_e2_se", Layer(8, 8, 1, 8))
    squeezed = 8 // 4
    assert gated.parameters - plain.parameters == 2 * 16 * squeezed + squeezed + 16
    assert gated.flops - plain.flops == 2 * 2 * 16 * squeezed
    assert gated.memory_bytes == plain.memory_bytes  # of the depthwise convolution before the gate


def test_an_identity_costs_its_name_alone() -> None:
    costs = block_costs("identity", Layer(8, 8, 1, 4))
    assert costs == Costs(parameters=0, flops=0, memory_bytes=4 * 8 * 16, file_bytes=len("identity|"))


def onnx_peak(model: onnx.ModelProto) -> int:
    """The same question asked of the exported graph: shapes by ONNX, an element-wise node writes over its last use."""
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        size = int(np.prod([dim.dim_value or 1 for dim in kind.shape.dim]))
        shapes[value.name] = size * (1 if kind.elem_type == onnx.TensorProto.UINT8 else 4)
    weights = {array.name for array in graph.initializer}
    last = {name: index for index, node in enumerate(graph.node) for name in node.input}
    last |= {value.name: len(graph.node) for value in graph.output}
    alive = {graph.input[0].name: shapes[graph.input[0].name]}
    highest = 0
    for index, node in enumerate(graph.node):
        read = [name for name in node.input if name in alive]
        view = node.op_type in ("Transpose",)
        over = [name for name in read if last[name] == index and alive[name] == shapes[node.output[0]]]
        if (node.op_type in ("Relu", "Add", "Mul", "Sub", "HardSigmoid", "Softmax") or view) and over:
            alive[node.output[0]] = alive.pop(over[0])
        elif node.output[0] not in weights:
            for name in node.output:
                alive[name] = shapes[name]
        highest = max(highest, sum(alive.values()))
        for name in read:
            if last[name] == index:
                alive.pop(name, None)
    return highest


@pytest.mark.parametrize("architecture", NETWORKS)
def test_peak_memory_is_that_of_the_exported_graph(architecture: Architecture) -> None:
    assert costs_of(SPACE, architecture).memory_bytes == onnx_peak(exported(architecture))


# The limit on memory


def networks(space: Space) -> set[Architecture]:
    return set(itertools.product(*(candidates(space, layer) for layer in range(len(space.layers)))))


def test_what_is_left_within_a_memory_limit_are_exactly_the_networks_within_it() -> None:
    every = {a: costs_of(SPACE, a).memory_bytes for a in networks(SPACE)}
    peaks = sorted(set(every.values()))
    assert len(peaks) > 3
    for limit in peaks:
        left = within_memory(SPACE, settings(max_memory_bytes=limit))
        assert networks(left) == {a for a, peak in every.items() if peak <= limit}
    assert within_memory(SPACE, settings()) == SPACE


def test_a_memory_limit_below_every_network_names_the_smallest_peak() -> None:
    least = min(costs_of(SPACE, a).memory_bytes for a in networks(SPACE))
    with pytest.raises(ValueError, match=rf"max_memory_bytes is {least - 1}, below the {least} bytes"):
        within_memory(SPACE, settings(max_memory_bytes=least - 1))


def test_stem_and_head_count_as_well() -> None:
    ends = ends_costs(space_ends(SPACE))
    assert ends.parameters == 9 * 16 + 2 * 16 + 48 * 10
    assert ends.flops == 2 * (256 * 9 * 16 + 48 * 10)
