"""Milliseconds of every block on the target, measured once in ONNX Runtime; a network's latency is a look-up.

Each distinct (block, input shape) is exported by the exporter of the final model and timed alone, in turns with all
others and with a reference network, whose own time says how disturbed the machine is at that moment. Then

    predicted = intercept + slope * sum over stem, layers and head of (t - o)

    t  median time of a part over its quietest turns: those in which it and the reference net beside it were fastest
    o  time of a session that computes nothing: every part pays it, a network only once
    slope, intercept: the Theil-Sen line through whole networks, composed of the very same parts and measured

With one thread on the CPU, ONNX Runtime computes on the calling thread, so that the thread's CPU time is the latency
of an undisturbed machine; with more the clock is the wall's; on a GPU two events on its stream give the time, inputs
and outputs staying there.

In int8 the parts are cut out of whole networks that were quantised as the one that ships is, between one uint8 tensor
and the next; random images give the ranges, which change what is computed and not how long it takes.
"""

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from components.architecture.network import Stem, build_block, pool, seeded
from components.architecture.space import (
    IDENTITY,
    Architecture,
    Space,
    after_stride,
    candidates,
    format_architecture,
)
from components.export import to_onnx
from components.params import Export, Latency
from components.quantisation import convert

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CLOCKS: dict[str, Callable[[], int]] = {"thread CPU": time.thread_time_ns, "wall": time.perf_counter_ns}
LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
WARMUP = 10
"""Untimed runs before the first timed one (ours)."""
SETTLE, BURST = 3, 3
"""In its turn a model runs SETTLE times untimed, then BURST times timed: a model in service stays in the caches (ours:
without it, small networks measured in turns come out a tenth to two thirds too slow)."""
PAUSE_SECONDS = 0.05
"""Between rounds of turns: a neighbour on the same core (hyper-threads, other guests) comes and goes within seconds."""
DISTURBED = 1.1
"""A turn in which the reference takes so many times its fastest was disturbed (ours). CPU time is immune to preemption
but not to a neighbour on the core's other hyper-thread: 1.0 or 1.3-1.6 times, hardly anything between."""
PATIENCE_SECONDS = 10.0
"""How much longer a measurement may take to meet a quiet machine (ours)."""
DRAWN_WHOLES = 64
"""Random networks that the measured ones are picked from (ours)."""
RANDOM_IMAGES = 4
"""They give the ranges of a network that is quantised only to be timed (ours)."""

STEM, HEAD, EMPTY, REFERENCE = "stem", "head", "empty session", "reference"


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a time was measured on; no host name."""

    processor: str
    provider: str
    threads: int
    batch: int
    optimisation: str
    onnxruntime: str
    clock: str

    def __str__(self) -> str:
        return (
            f"{self.processor} ({self.provider}, {self.threads} threads, batch {self.batch}, "
            f"optimisation {self.optimisation}, ONNX Runtime {self.onnxruntime}, {self.clock} clock)"
        )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One timed part; milliseconds."""

    name: str
    ms: float
    """Median of the quietest turns, at the pace of an undisturbed machine."""
    spread_ms: float
    """Their interquartile range."""
    samples: tuple[float, ...]
    """Every timed run as the clock gave it, turn after turn."""
    references: tuple[float, ...]
    """The reference's time beside each turn."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A few timed runs in a row, milliseconds."""

    times: tuple[float, ...]
    reference_ms: float
    """The slower of the reference's medians before and after."""


Turns = dict[str, list[Turn]]
"""All turns of each model."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A whole network of the calibration, milliseconds."""

    architecture: str
    sum_ms: float
    """Sum of its parts without their overhead."""
    entry: Entry


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Latency of a finished file, milliseconds."""

    p50_ms: float
    p99_ms: float
    clock: str
    device: Device
    samples: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Everything measured, and the line from sums of parts to networks."""

    device: Device
    quantize: str
    """`export.quantize`: the precision of everything measured."""
    layers: tuple[str, ...]
    """The shape of each layer of the space it was measured for."""
    overhead_ms: float
    slope: float
    intercept_ms: float
    entries: tuple[Entry, ...]
    """Parts by name: stem, head, `<block> <shape>`, the empty session and the reference."""
    wholes: tuple[Whole, ...]

    def sum_of_parts(self, architecture: Architecture) -> float:
        """Milliseconds of the network's parts without their sessions' overhead."""
        times = {entry.name: entry.ms for entry in self.entries}
        return sum_of_parts(times, self.layers, architecture)

    def predict(self, architecture: Architecture) -> float:
        """Milliseconds of one inference of the network; its parts add up.

        Raises ValueError if the table was measured for other blocks or shapes.
        """
        return self.line(self.sum_of_parts(architecture))

    def line(self, sum_ms: float) -> float:
        """Milliseconds of a network whose parts sum up to so many."""
        return self.intercept_ms + self.slope * sum_ms

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts, lists and dictionaries; the inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LatencyTable":
        entries = tuple(entry_of(entry) for entry in value["entries"])
        wholes = tuple(Whole(**(whole | {"entry": entry_of(whole["entry"])})) for whole in value["wholes"])
        simple = {"device": Device(**value["device"]), "layers": tuple(value["layers"])}
        return cls(**(dict(value) | simple | {"entries": entries, "wholes": wholes}))


def entry_of(value: Mapping[str, Any]) -> Entry:
    samples, references = tuple(value["samples"]), tuple(value["references"])
    return Entry(**(dict(value) | {"samples": samples, "references": references}))


def sum_of_parts(times: Mapping[str, float], layers: tuple[str, ...], architecture: Architecture) -> float:
    """Milliseconds of stem, blocks and head, each without the overhead of its session."""
    try:
        names = parts(layers, architecture)
        return sum(times[name] for name in names) - len(names) * times[EMPTY]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"the latency table does not cover {format_architecture(architecture)} ({error}); "
            f"measure it again for the present params"
        ) from error


def parts(layers: tuple[str, ...], architecture: Architecture) -> list[str]:
    """Names of the timed parts a network consists of; an identity is none."""
    blocks = [part_name(block, shape) for block, shape in zip(architecture, layers, strict=True) if block != IDENTITY]
    return [STEM, *blocks, HEAD]


def part_name(block: str, shape: str) -> str:
    return f"{block} {shape}"


class RawStem(nn.Module):
    """The stem as it ships: raw NHWC images in."""

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, images: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b stem h2 w2"]:
        result: Tensor = self.stem(images.permute(0, 3, 1, 2))
        return result


class Head(nn.Module):
    """Pooling, classifier and probabilities, as they ship."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.classifier = nn.Linear(space.features, space.classes, bias=False)

    def forward(self, x: Float[Tensor, "b d h w"]) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        logits: Tensor = self.classifier(pool(x))
        return logits, logits.softmax(dim=1)


class Empty(nn.Module):
    """Next to nothing: what is left is the session's overhead."""

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return x + 1


class SideBySide(nn.Module):
    """Many modules, each from its own input to its own outputs: one export for all of them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for part, x in zip(self.parts, inputs, strict=True):
            y = part(x)
            outputs += y if isinstance(y, tuple) else (y,)
        return tuple(outputs)


def measure(space: Space, settings: Latency, export: Export, rng: np.random.Generator) -> LatencyTable:
    """Time every part and the calibration networks on the target that the settings name, in the precision of `export`.

    `rng` picks the calibration networks. Raises ValueError if ONNX Runtime cannot compute on the target.
    """
    return measure_parts(export_parts(space), space, settings, export, rng)


def measure_parts(
    exported: dict[str, onnx.ModelProto], space: Space, settings: Latency, export: Export, rng: np.random.Generator
) -> LatencyTable:
    """The same from parts that are exported already."""
    layers = tuple(str(layer) for layer in space.layers)
    models = PARTS[export.quantize](exported, space, export)
    reference = whole_model(exported, space, export, full_architecture(space))
    part_turns = time_models(models | {REFERENCE: reference}, settings)
    first = medians(part_turns)
    chosen = pick_wholes(space, lambda a: sum_of_parts(first, layers, a), settings.calibration, rng)
    composed = {format_architecture(a): whole_model(exported, space, export, a) for a in chosen}
    whole_turns = time_models(composed | {REFERENCE: reference}, settings)
    pace = quiet_pace(chain(*part_turns.values(), *whole_turns.values()))
    entries = {name: entry_from(name, turns, pace) for name, turns in part_turns.items()}
    times = {name: entry.ms for name, entry in entries.items()}
    wholes = tuple(
        Whole(
            architecture=format_architecture(a),
            sum_ms=sum_of_parts(times, layers, a),
            entry=entry_from(format_architecture(a), whole_turns[format_architecture(a)], pace),
        )
        for a in chosen
    )
    slope, intercept = fit_line([whole.sum_ms for whole in wholes], [whole.entry.ms for whole in wholes])
    return LatencyTable(
        device=device_of(settings),
        quantize=export.quantize,
        layers=layers,
        overhead_ms=times[EMPTY],
        slope=slope,
        intercept_ms=intercept,
        entries=tuple(entries.values()),
        wholes=wholes,
    )


def full_architecture(space: Space) -> Architecture:
    """The reference network: the first block that computes something, everywhere."""
    return wherever_legal(space, IDENTITY)


def wherever_legal(space: Space, block: str) -> Architecture:
    """The block in all layers; where it cannot be, or is the identity, the first that computes something."""
    legal = [[name for name in candidates(space, layer) if name != IDENTITY] for layer in range(len(space.layers))]
    return tuple(block if block in names else names[0] for names in legal)


def export_parts(space: Space) -> dict[str, onnx.ModelProto]:
    """Every distinct part of the space's networks as an ONNX model, batch free as in the file that ships.

    One export makes them all (each costs seconds alone); then each is cut out of the graph.
    """
    modules, examples = part_modules(space)
    inputs = {name: f"x{index}" for index, name in enumerate(modules)}
    outputs = {name: [f"y{index}"] for index, name in enumerate(modules)} | {HEAD: ["logits", "probabilities"]}
    whole = to_onnx(
        SideBySide(modules.values()),
        tuple(examples.values()),
        list(inputs.values()),
        list(chain(*outputs.values())),
        dynamic_batch=False,  # the exporter knows no free dimension of `*inputs`
    )
    cutter = onnx.utils.Extractor(free_batch(whole))
    return {name: cutter.extract_model([inputs[name]], outputs[name]) for name in modules}


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the first dimension of every input and output be anything; no operator of ours holds it fixed."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    return model


def part_modules(space: Space) -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    """The parts by name, each with an example input of two images (the exporter would take one for a constant)."""
    last = space.layers[-1]
    side = after_stride(last.size, last.stride)
    blank = (0.5,) * space.channels
    with seeded(0):
        modules = {STEM: RawStem(Stem(space, blank, blank)), EMPTY: Empty(), HEAD: Head(space)}
        examples = {
            STEM: torch.zeros((2, space.size, space.size, space.channels), dtype=torch.uint8),
            EMPTY: torch.zeros((2, 1)),
            HEAD: torch.zeros((2, last.outputs, side, side)),
        }
        for index, layer in enumerate(space.layers):
            for block in candidates(space, index):
                name = part_name(block, str(layer))
                if block != IDENTITY and name not in modules:
                    modules[name] = build_block(block, layer)
                    examples[name] = torch.zeros((2, layer.inputs, layer.size, layer.size))
        shift(modules.values())
    return modules, examples


def shift(modules: Iterable[nn.Module]) -> None:
    """Draw the biases of batch norm as if they were trained: the exporter leaves a bias of zeros out of the graph."""
    for module in modules:
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.normal_(norm.bias)


def compose(
    models: Mapping[str, onnx.ModelProto], layers: tuple[str, ...], architecture: Architecture
) -> onnx.ModelProto:
    """The whole network from its parts' graphs, without another export."""
    first, *rest = (
        onnx.compose.add_prefix(models[name], f"part{index}_") for index, name in enumerate(parts(layers, architecture))
    )
    whole: onnx.ModelProto = first
    for part in rest:
        whole = onnx.compose.merge_models(whole, part, io_map=[(whole.graph.output[0].name, part.graph.input[0].name)])
    del whole.opset_import[len(first.opset_import) :]  # it lists every part's, all the same
    return whole


def whole_model(
    exported: Mapping[str, onnx.ModelProto], space: Space, export: Export, architecture: Architecture
) -> onnx.ModelProto:
    """The whole network in the precision that ships; random images give the ranges if it needs any."""
    composed = compose(exported, tuple(str(layer) for layer in space.layers), architecture)
    return convert(composed, random_images(space), export)


def random_images(space: Space) -> UInt8[np.ndarray, "n h w c"]:
    shape = (RANDOM_IMAGES, space.size, space.size, space.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def float_parts(exported: dict[str, onnx.ModelProto], space: Space, export: Export) -> dict[str, onnx.ModelProto]:
    """As they were exported."""
    return exported


def int8_parts(exported: dict[str, onnx.ModelProto], space: Space, export: Export) -> dict[str, onnx.ModelProto]:
    """Each cut out of a quantised network, one network a block; between the parts are uint8 tensors."""
    layers, cut = tuple(str(layer) for layer in space.layers), {EMPTY: exported[EMPTY]}
    for block in space.blocks:
        architecture = wherever_legal(space, block)
        whole = onnx.shape_inference.infer_shapes(whole_model(exported, space, export, architecture))
        cutter = onnx.utils.Extractor(whole)
        before = [whole.graph.input[0].name]
        *inner, last = enumerate(parts(layers, architecture))
        for index, name in inner:
            after = [f"part{index}_{exported[name].graph.output[0].name}_QuantizeLinear_Output"]
            if name not in cut:
                cut[name] = cutter.extract_model(before, after)
            before = after
        cut[last[1]] = cutter.extract_model(before, [value.name for value in whole.graph.output])
    return cut


PARTS = {"none": float_parts, "int8": int8_parts}
"""`export.quantize` -> the parts to time, from those that were exported."""


def pick_wholes(
    space: Space, cost: Callable[[Architecture], float], count: int, rng: np.random.Generator
) -> list[Architecture]:
    """Up to `count` random networks, evenly from the cheapest to the dearest of those drawn."""
    legal = [candidates(space, layer) for layer in range(len(space.layers))]
    drawn = {tuple(names[rng.integers(len(names))] for names in legal) for _ in range(DRAWN_WHOLES)}
    ordered = sorted(drawn, key=lambda a: (cost(a), a))
    places = np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int))
    return [ordered[place] for place in places]


def fit_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept by Theil and Sen (medians over pairs): one disturbed network does not tilt the line."""
    slopes = [(y[j] - y[i]) / (x[j] - x[i]) for j in range(len(x)) for i in range(j) if x[j] != x[i]]
    slope = float(np.median(slopes)) if slopes else 1.0
    return slope, float(np.median(np.subtract(y, np.multiply(slope, x))))


def time_models(models: Mapping[str, onnx.ModelProto], settings: Latency, patience: float = PATIENCE_SECONDS) -> Turns:
    """Run all models in turns, each between two turns of the reference, which must be among them.

    At least the settings' repeats; then for up to `patience` seconds, until every model has met a quiet machine.
    """
    runs = {name: timed_run(model.SerializeToString(), settings) for name, model in models.items()}
    turns: Turns = {name: [] for name in models}
    until = time.monotonic() + patience
    while len(turns[REFERENCE]) * BURST < settings.repeats or (disturbed(turns) and time.monotonic() < until):
        time.sleep(PAUSE_SECONDS)
        before = float(np.median(burst(runs[REFERENCE], WARMUP, BURST)))
        for name, run in runs.items():
            times = burst(run, SETTLE, BURST)
            after = float(np.median(burst(runs[REFERENCE], SETTLE, BURST)))
            turns[name].append(Turn(times=times, reference_ms=max(before, after)))
            before = after
    return turns


def burst(run: Callable[[], float], untimed: int, timed: int) -> tuple[float, ...]:
    """Milliseconds of `timed` runs, after some that bring the model back into the caches."""
    for _ in range(untimed):
        run()
    return tuple(run() for _ in range(timed))


def slowness(turns: Sequence[Turn], reference_ms: float) -> Float[np.ndarray, " turns"]:
    """About 1 for a turn in which neither the model nor the reference was slower than undisturbed."""
    own = np.array([np.median(turn.times) for turn in turns])
    references = np.array([turn.reference_ms for turn in turns])
    slower: np.ndarray = np.maximum(own / own.min(), references / reference_ms)
    return slower


def quietest(turns: Sequence[Turn], reference_ms: float) -> list[Turn]:
    """The least disturbed quarter of the turns."""
    order = np.argsort(slowness(turns, reference_ms), kind="stable")
    return [turns[place] for place in order[: max(1, len(turns) // 4)]]


def quiet_pace(turns: Iterable[Turn]) -> float:
    """The reference's time on an undisturbed machine, as far as it was met; not the minimum, which is luck."""
    return float(np.percentile([turn.reference_ms for turn in turns], 10))


def disturbed(turns: Turns) -> bool:
    """Whether a model has yet to meet a quiet machine in a quarter of its turns."""
    reference_ms = quiet_pace(chain(*turns.values()))
    return any(slowness(quietest(these, reference_ms), reference_ms).max() > DISTURBED for these in turns.values())


def medians(turns: Turns) -> dict[str, float]:
    """Milliseconds of each model."""
    reference_ms = quiet_pace(chain(*turns.values()))
    return {name: entry_from(name, these, reference_ms).ms for name, these in turns.items()}


def entry_from(name: str, turns: Sequence[Turn], reference_ms: float) -> Entry:
    """The model's time at the pace at which the reference takes `reference_ms`."""
    quiet = quietest(turns, reference_ms)
    paced = [np.divide(turn.times, turn.reference_ms / reference_ms) for turn in quiet]
    low, middle, high = np.percentile(paced, [25, 50, 75])
    return Entry(
        name=name,
        ms=float(middle),
        spread_ms=float(high - low),
        samples=tuple(round(sample, 6) for turn in turns for sample in turn.times),
        references=tuple(round(turn.reference_ms, 6) for turn in turns),
    )


def timed_run(model: bytes, settings: Latency) -> Callable[[], float]:
    """A function that runs the model once on random input and returns its milliseconds.

    Raises ValueError if ONNX Runtime cannot compute on the target.
    """
    return RUNS[settings.provider](model, settings)


def timed_run_on_cpu(model: bytes, settings: Latency) -> Callable[[], float]:
    session = open_session(model, settings)
    feed, clock = random_feed(session, settings), CLOCKS[clock_of(settings)]

    def run() -> float:
        start = clock()
        session.run(None, feed)
        return (clock() - start) / 1e6

    return run


def timed_run_on_cuda(model: bytes, settings: Latency) -> Callable[[], float]:
    """Inputs and outputs are bound to the device's memory; ONNX Runtime computes on the stream of the two events."""
    if not torch.cuda.is_available():
        raise ValueError(missing_provider(settings, "torch finds no CUDA device"))
    stream = torch.cuda.Stream()
    session = open_session(model, settings, {"user_compute_stream": str(stream.cuda_stream)})
    binding = session.io_binding()
    for name, value in random_feed(session, settings).items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", 0)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def run() -> float:
        start.record(stream)
        session.run_with_iobinding(binding)
        end.record(stream)
        end.synchronize()
        return float(start.elapsed_time(end))

    return run


RUNS = {"cpu": timed_run_on_cpu, "cuda": timed_run_on_cuda}


def open_session(
    model: bytes, settings: Latency, provider_options: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """A session on the provider asked for. Raises ValueError if it would compute anywhere else."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = LEVELS[settings.optimisation]
    options.log_severity_level = 4  # a missing provider is our error below, not a warning on the screen
    if settings.provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    wanted = PROVIDERS[settings.provider]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[(wanted, dict(provider_options or {}))])
        got = session.get_providers()[0]
    except Exception as error:  # ONNX Runtime's own exceptions have no common class
        if settings.provider == "cpu":
            raise
        raise ValueError(missing_provider(settings, str(error))) from error
    if got != wanted:
        raise ValueError(missing_provider(settings, f"it offers {got}"))
    return session


def missing_provider(settings: Latency, reason: str) -> str:
    return (
        f"latency.provider is {settings.provider}, but ONNX Runtime cannot compute there on this machine "
        f"({reason}); install its driver and libraries, or set latency.provider to cpu"
    )


def random_feed(session: onnxruntime.InferenceSession, settings: Latency) -> dict[str, np.ndarray]:
    """Random values for every input of the model."""
    return {value.name: random_input(value, settings.batch) for value in session.get_inputs()}


def random_input(value: onnxruntime.NodeArg, batch: int) -> np.ndarray:
    """An array of the input's type and shape; a free dimension becomes `batch`."""
    shape = [size if isinstance(size, int) else batch for size in value.shape]
    rng = np.random.default_rng(0)
    if value.type == "tensor(uint8)":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)


def clock_of(settings: Latency) -> str:
    """The thread's CPU time is the latency only where the calling thread does all the work."""
    if settings.provider == "cuda":
        return "CUDA events"
    return "thread CPU" if settings.threads == 1 else "wall"


def device_of(settings: Latency) -> Device:
    """The target as this machine has it."""
    on_gpu = settings.provider == "cuda" and torch.cuda.is_available()
    return Device(
        processor=torch.cuda.get_device_name() if on_gpu else processor_name(),
        provider=settings.provider,
        threads=settings.threads,
        batch=settings.batch,
        optimisation=settings.optimisation,
        onnxruntime=onnxruntime.__version__,
        clock=clock_of(settings),
    )


def processor_name() -> str:
    """The CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def measure_model(model: bytes, settings: Latency, repeats: int) -> Measurement:
    """Time a finished ONNX file on the target. Raises ValueError if ONNX Runtime cannot compute there.

    The median is of the quietest quarter of the turns, as the table's times are; the tail is of all runs.
    """
    run = timed_run(model, settings)
    burst(run, WARMUP, 0)
    turns = []
    for _ in range(-(-repeats // BURST)):
        time.sleep(PAUSE_SECONDS)
        times = burst(run, SETTLE, BURST)
        turns.append(Turn(times=times, reference_ms=float(np.median(times))))
    return Measurement(
        p50_ms=float(np.median([turn.times for turn in quietest(turns, quiet_pace(turns))])),
        p99_ms=float(np.percentile([turn.times for turn in turns], 99)),
        clock=clock_of(settings),
        device=device_of(settings),
        samples=tuple(sample for turn in turns for sample in turn.times),
    )
