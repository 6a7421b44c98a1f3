"""The latency table: what it adds up, what it refuses, and that its parts are the networks that ship."""

import itertools
import json
import platform

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from components.architecture.latency import LatencyTable
from components.architecture.measurement import fit_line, measure, measure_parts
from components.architecture.network import build_network
from components.architecture.part_models import (
    compose,
    export_parts,
    int8_parts,
    part_modules,
    random_images,
    shift,
    whole_model,
)
from components.architecture.parts import EMPTY, HEAD, STEM, parts
from components.architecture.space import Space, space_of
from components.architecture.timing import (
    REFERENCE,
    Device,
    Entry,
    Turn,
    device_of,
    entry_from,
    measure_model,
    quiet_pace,
    timed_run,
)
from components.data.store import Classes
from components.settings.architecture import Architecture
from components.settings.export import Export
from components.settings.latency import Latency
from components.shipping.export import export_network
from components.shipping.quantisation import convert

CLASSES = Classes(names=("a", "b", "c"), size=8, channels=1)
FAST = Latency(repeats=3, calibration=3)
INT8 = Export(quantize="int8")
ARCHITECTURE = ("res_k3", "identity", "pool_k3", "mb_k3_e2_se", "identity")


def space() -> Space:
    settings = Architecture(
        stem=8,
        stem_stride=1,
        stages=((8, 2, 1), (12, 3, 2)),
        blocks=("mb_k3_e2_se", "res_k3", "pool_k3", "identity"),
        warmup_epochs=0.0,
        stage_epochs=0.0,
    )
    return space_of(settings, CLASSES)


def entry(name: str, ms: float) -> Entry:
    return Entry(name=name, ms=ms, spread_ms=0.0, samples=(ms,), references=(1.0,))


def table() -> LatencyTable:
    """By hand: two layers of different shapes."""
    parts = {STEM: 1.5, HEAD: 0.75, EMPTY: 0.5, REFERENCE: 9.0, "a s": 2.5, "b s": 4.5, "a t": 8.5}
    return LatencyTable(
        device=device_of(FAST),
        quantize="none",
        layers=("s", "t"),
        overhead_ms=0.5,
        slope=2.0,
        intercept_ms=0.25,
        entries=tuple(entry(name, ms) for name, ms in parts.items()),
        wholes=(),
    )


# By hand


def test_a_prediction_is_the_line_through_the_sum_of_parts_without_their_overhead() -> None:
    assert table().sum_of_parts(("b", "a")) == (1.5 - 0.5) + (4.5 - 0.5) + (8.5 - 0.5) + (0.75 - 0.5)
    assert table().predict(("b", "a")) == 0.25 + 2.0 * 13.25


def test_an_identity_costs_nothing() -> None:
    assert table().predict(("identity", "a")) == 0.25 + 2.0 * 9.25


@pytest.mark.parametrize("architecture", [("b", "b"), ("a",), ("a", "a", "a")])
def test_a_network_the_table_was_not_measured_for_is_refused(architecture: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"does not cover .* measure it again"):
        table().predict(architecture)


def test_a_disturbed_network_does_not_tilt_the_line() -> None:
    x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    y = [0.5 + 1.25 * value for value in x]
    assert fit_line(x, y) == (pytest.approx(1.25), pytest.approx(0.5))
    y[6] *= 1.5
    assert fit_line(x, y) == (pytest.approx(1.25, rel=0.02), pytest.approx(0.5, abs=0.05))


def test_networks_that_are_all_alike_give_a_line_of_slope_1() -> None:
    assert fit_line([2.0, 2.0, 2.0], [2.5, 2.6, 9.0]) == (1.0, pytest.approx(0.6))


def turns(ms: float, slowed: float, share: float, seed: int = 0) -> list[Turn]:
    """Forty turns of a model of `ms` beside a reference of 2 ms; a neighbour slows both in some of them."""
    rng = np.random.default_rng(seed)
    made = []
    for disturbed in rng.random(40) < share:
        jitter = 1 + 0.01 * rng.random(4)
        own, reference = (ms * slowed, 2.0 * slowed * 0.9) if disturbed else (ms, 2.0)
        made.append(Turn(times=tuple((own * jitter[:3]).tolist()), reference_ms=float(reference * jitter[3])))
    return made


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_neighbour_on_the_core_does_not_change_the_time_of_a_part(share: float) -> None:
    these = turns(5.0, slowed=1.5, share=share)
    assert entry_from("x", these, quiet_pace(these)).ms == pytest.approx(5.0, rel=0.015)


def test_where_no_turn_was_quiet_the_reference_gives_the_pace() -> None:
    these = turns(5.0, slowed=1.5, share=1.0)
    assert entry_from("x", these, 2.0).ms == pytest.approx(5.0, rel=0.15)


# The parts are those that ship


@pytest.fixture(scope="module")
def models() -> dict[str, onnx.ModelProto]:
    return export_parts(space())


def test_every_block_is_exported_once_a_shape(models: dict[str, onnx.ModelProto]) -> None:
    blocks = ("mb_k3_e2_se", "res_k3")
    shapes = ("8x8x8->8/1", "8x8x8->12/2", "12x4x4->12/1")
    everywhere = {f"{block} {shape}" for block in blocks for shape in shapes}
    assert set(models) == {STEM, HEAD, EMPTY, "pool_k3 8x8x8->12/2", *everywhere}


def test_a_composed_network_computes_what_its_modules_compute(models: dict[str, onnx.ModelProto]) -> None:
    layers = tuple(str(layer) for layer in space().layers)
    modules, examples = part_modules(space())
    names = [STEM, "res_k3 8x8x8->8/1", "pool_k3 8x8x8->12/2", "mb_k3_e2_se 12x4x4->12/1", HEAD]
    shape = (5, *examples[STEM].shape[1:])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, expected = nn.Sequential(*(modules[name] for name in names)).eval()(images)
    composed = compose(models, layers, ARCHITECTURE)
    session = onnxruntime.InferenceSession(composed.SerializeToString(), providers=["CPUExecutionProvider"])
    _, given = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert np.abs(given - expected.numpy()).max() < 1e-5


def test_a_composed_network_has_the_operators_of_the_exported_one(models: dict[str, onnx.ModelProto]) -> None:
    composed = compose(models, tuple(str(layer) for layer in space().layers), ARCHITECTURE)
    network = build_network(space(), ARCHITECTURE, (0.5,), (0.5,))
    shift([network])
    exported = export_network(network, CLASSES, "|".join(ARCHITECTURE))

    def operators(model: onnx.ModelProto) -> list[tuple[str, int]]:
        return sorted((node.op_type, len(node.input)) for node in model.graph.node if node.op_type != "Identity")

    assert operators(composed) == operators(exported)
    in_int8 = [convert(model, random_images(space()), INT8) for model in (composed, exported)]
    assert operators(in_int8[0]) == operators(in_int8[1])
    assert [len(model.graph.output) for model in (composed, exported)] == [2, 2]
    assert composed.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_int8_parts_are_together_the_quantised_network(models: dict[str, onnx.ModelProto]) -> None:
    names = parts(tuple(str(layer) for layer in space().layers), ARCHITECTURE)
    cut = int8_parts(models, space(), INT8)
    assert set(cut) == set(models)
    whole = whole_model(models, space(), INT8, ARCHITECTURE)
    assert sorted(node.op_type for name in names for node in cut[name].graph.node) == sorted(
        node.op_type for node in whole.graph.node
    )
    for before, after in itertools.pairwise(names):
        (out,), (into,) = cut[before].graph.output, cut[after].graph.input
        assert out.type.tensor_type.elem_type == into.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_graph_is_optimised_as_far_as_asked_for(models: dict[str, onnx.ModelProto]) -> None:
    model = compose(models, tuple(str(layer) for layer in space().layers), ARCHITECTURE).SerializeToString()

    def milliseconds(settings: Latency) -> float:
        run = timed_run(model, settings)
        return min(run() for _ in range(50))

    assert milliseconds(Latency(optimisation="none")) > 1.1 * milliseconds(FAST)
    assert device_of(Latency(optimisation="none")) != device_of(FAST)


# Measured


@pytest.fixture(scope="module")
def measured() -> LatencyTable:
    return measure(space(), FAST, Export(), np.random.default_rng(0))


def test_a_measured_table_covers_its_space_and_survives_json(measured: LatencyTable) -> None:
    assert measured.predict(ARCHITECTURE) > 0
    assert len({one.name for one in measured.entries}) == len(measured.entries) == 4 + 2 * 3 + 1
    assert all(one.ms > 0 and len(one.samples) >= FAST.repeats for one in measured.entries)
    assert 2 <= len(measured.wholes) <= 3
    assert LatencyTable.from_json(json.loads(json.dumps(measured.to_json()))) == measured


def test_a_table_names_the_processor_and_not_the_machine(measured: LatencyTable) -> None:
    assert measured.device == device_of(FAST)
    assert measured.device.onnxruntime == onnxruntime.__version__
    assert measured.device.clock == "thread CPU"
    assert platform.node() not in json.dumps(measured.to_json())
    assert device_of(Latency(threads=2)) != measured.device
    assert device_of(Latency(threads=2)).clock == "wall"


def test_a_table_of_int8_blocks_says_so_and_covers_its_space(models: dict[str, onnx.ModelProto]) -> None:
    table = measure_parts(models, space(), FAST, INT8, np.random.default_rng(0))
    assert table.quantize == "int8"
    assert table.predict(ARCHITECTURE) > 0
    assert {one.name for one in table.entries} == {*models, REFERENCE}


def test_a_finished_file_is_measured_as_it_ships() -> None:
    network = build_network(space(), ARCHITECTURE, (0.5,), (0.5,))
    model = export_network(network, CLASSES, "|".join(ARCHITECTURE)).SerializeToString()
    times = measure_model(model, FAST, repeats=9)
    assert len(times.samples) == 9
    assert 0 < times.quiet_ms <= times.p50_ms <= times.p99_ms
    assert isinstance(times.device, Device)
    assert times.clock == "thread CPU"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the provider")
def test_a_missing_provider_is_an_error_and_never_a_silent_cpu_number(models: dict[str, onnx.ModelProto]) -> None:
    with pytest.raises(ValueError, match=r"latency.provider is cuda, but .* set latency.provider to cpu"):
        measure_model(models[EMPTY].SerializeToString(), Latency(provider="cuda"), repeats=3)
