"""Latency of ONNX graphs on the target in milliseconds, on a machine that other processes disturb.

Models run in turns, each between two turns of a reference network, whose time shows how disturbed the machine is at
that moment. A model's time is the median over its quietest turns, in which it and the reference were fastest.

With one thread on the CPU, ONNX Runtime computes on the calling thread, so that the thread's CPU time is the latency
of an undisturbed machine. With more threads the time is wall-clock time. On a GPU it is measured by two events on its
stream, with inputs and outputs in its memory.
"""

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import Float

from components.progress import Progress, unwatched
from components.settings.latency import Latency
from components.streams import stream

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CLOCKS: dict[str, Callable[[], int]] = {"thread CPU": time.thread_time_ns, "wall": time.perf_counter_ns}
LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
WARMUP = 10
"""Number of untimed runs before the first timed one (ours)."""
SETTLE, BURST = 3, 3
"""In its turn a model runs SETTLE times untimed, then BURST times timed, because a model in service stays in the caches
(ours: without it, small networks measured in turns are a tenth to two thirds too slow)."""
PAUSE_SECONDS = 0.05
"""Seconds between rounds of turns, since a neighbour on the same core (hyper-thread, other guest) comes and goes."""
DISTURBED = 1.1
"""Slowness from which a turn counts as disturbed (ours). Preemption does not change CPU time, but a neighbour on the
core's other hyper-thread does: measured slowness is 1.0 or 1.3 to 1.6, and hardly anything between."""
PATIENCE_SECONDS = 10.0
"""Seconds by which a measurement may be extended to meet a quiet machine (ours)."""
REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that a time was measured on, without its host name."""

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
    """The times of one part, in milliseconds."""

    name: str
    ms: float
    """Median of the quietest turns, at the pace of an undisturbed machine."""
    spread_ms: float
    """Interquartile range of the quietest turns."""
    samples: tuple[float, ...]
    """Every timed run as measured, turn after turn."""
    references: tuple[float, ...]
    """Time of the reference beside each turn."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A few timed runs in a row, in milliseconds."""

    times: tuple[float, ...]
    reference_ms: float
    """The larger of the reference's medians before and after the turn."""


Turns = dict[str, list[Turn]]
"""All turns of each model, by its name."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Latency of a finished file, in milliseconds."""

    quiet_ms: float
    """Median of the quietest quarter of the turns, as on an undisturbed machine; the budget limits this number."""
    p50_ms: float
    """Median of all runs."""
    p99_ms: float
    """99th percentile of all runs."""
    clock: str
    device: Device
    samples: tuple[float, ...]


def time_models(
    models: Mapping[str, onnx.ModelProto],
    settings: Latency,
    patience: float = PATIENCE_SECONDS,
    progress: Progress = unwatched,
    what: str = "models",
) -> Turns:
    """Run all models in turns, each between two turns of the reference, which must be among them.

    They run at least the settings' repeats, then up to `patience` seconds more, until every model has met a quiet
    machine.
    """
    runs = {name: timed_run(model.SerializeToString(), settings) for name, model in models.items()}
    turns: Turns = {name: [] for name in models}
    until = time.monotonic() + patience
    rounds = ceil(settings.repeats / BURST)
    for _ in progress(range(rounds), rounds, f"rounds of {len(models)} {what}"):
        take_turns(runs, turns)
    while is_disturbed(turns) and time.monotonic() < until:
        take_turns(runs, turns)
    return turns


def take_turns(runs: Mapping[str, Callable[[], float]], turns: Turns) -> None:
    """Run one more turn of each model."""
    time.sleep(PAUSE_SECONDS)
    before = float(np.median(burst(runs[REFERENCE], WARMUP, BURST)))
    for name, run in runs.items():
        times = burst(run, SETTLE, BURST)
        after = float(np.median(burst(runs[REFERENCE], SETTLE, BURST)))
        turns[name].append(Turn(times=times, reference_ms=max(before, after)))
        before = after


def burst(run: Callable[[], float], untimed: int, timed: int) -> tuple[float, ...]:
    """Return the milliseconds of `timed` runs, after untimed ones that bring the model back into the caches."""
    for _ in range(untimed):
        run()
    return tuple(run() for _ in range(timed))


def slowness(turns: Sequence[Turn], reference_ms: float) -> Float[np.ndarray, " turns"]:
    """Return each turn's slowness: about 1 if neither the model nor the reference was slower than undisturbed."""
    own = np.array([np.median(turn.times) for turn in turns])
    references = np.array([turn.reference_ms for turn in turns])
    slower: np.ndarray = np.maximum(own / own.min(), references / reference_ms)
    return slower


def quietest(turns: Sequence[Turn], reference_ms: float) -> list[Turn]:
    """Return the least disturbed quarter of the turns."""
    order = np.argsort(slowness(turns, reference_ms), kind="stable")
    return [turns[place] for place in order[: max(1, len(turns) // 4)]]


def quiet_pace(turns: Iterable[Turn]) -> float:
    """Estimate the reference's time on an undisturbed machine by a low percentile; the minimum depends on luck."""
    return float(np.percentile([turn.reference_ms for turn in turns], 10))


def is_disturbed(turns: Turns) -> bool:
    """Whether a model has yet to meet a quiet machine in a quarter of its turns."""
    reference_ms = quiet_pace(chain(*turns.values()))
    return any(slowness(quietest(these, reference_ms), reference_ms).max() > DISTURBED for these in turns.values())


def medians(turns: Turns) -> dict[str, float]:
    """Return the milliseconds of each model."""
    reference_ms = quiet_pace(chain(*turns.values()))
    return {name: entry_from(name, these, reference_ms).ms for name, these in turns.items()}


def entry_from(name: str, turns: Sequence[Turn], reference_ms: float) -> Entry:
    """Return the model's times at the pace at which the reference takes `reference_ms`."""
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
    """Return a function that runs the model once on random input and returns its milliseconds.

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
    """Bind inputs and outputs to the device's memory; ONNX Runtime computes on the stream of the two events."""
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
    """Open a session on the settings' provider. Raises ValueError if it would compute anywhere else."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = LEVELS[settings.optimisation]
    options.log_severity_level = 4  # a missing provider is reported by our error below
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
    """Return random values for every input of the model."""
    return {value.name: random_input(value, settings.batch) for value in session.get_inputs()}


def random_input(value: onnxruntime.NodeArg, batch: int) -> np.ndarray:
    """Return a random array of the input's type and shape; a free dimension becomes `batch`."""
    shape = [size if isinstance(size, int) else batch for size in value.shape]
    rng = stream(0, "random input")
    if value.type == "tensor(uint8)":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)


def clock_of(settings: Latency) -> str:
    """Return the name of the clock; the thread's CPU time is used only if the calling thread does all the work."""
    if settings.provider == "cuda":
        return "CUDA events"
    return "thread CPU" if settings.threads == 1 else "wall"


def device_of(settings: Latency) -> Device:
    """Return this machine's device for the settings."""
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
    """Return the CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def measure_model(model: bytes, settings: Latency, repeats: int) -> Measurement:
    """Time a finished ONNX file on the target. Raises ValueError if ONNX Runtime cannot compute there.

    The quietest turns are those in which the file itself was fastest, since no reference runs beside it.
    """
    run = timed_run(model, settings)
    burst(run, WARMUP, 0)
    turns = []
    for _ in range(-(-repeats // BURST)):
        time.sleep(PAUSE_SECONDS)
        times = burst(run, SETTLE, BURST)
        turns.append(Turn(times=times, reference_ms=float(np.median(times))))
    low, high = np.percentile([turn.times for turn in turns], [50, 99])
    return Measurement(
        quiet_ms=float(np.median([turn.times for turn in quietest(turns, quiet_pace(turns))])),
        p50_ms=float(low),
        p99_ms=float(high),
        clock=clock_of(settings),
        device=device_of(settings),
        samples=tuple(sample for turn in turns for sample in turn.times),
    )
