"""Milliseconds of every block on the target, measured once in ONNX Runtime; a network's latency is a look-up.

Each distinct (block, input shape) is exported by the exporter of the final model (`parts`) and timed alone, in turns
with all others (`timing`). Then

    predicted = intercept + slope * sum over stem, layers and head of (t - o)

    t  median time of a part over its quietest turns
    o  time of a session that computes nothing: every part pays it, a network only once
    slope, intercept: the Theil-Sen line through whole networks, composed of the very same parts and measured
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import onnx

from components.architecture.parts import EMPTY, PARTS, export_parts, full_architecture, parts, whole_model
from components.architecture.space import (
    Architecture,
    Space,
    candidates,
    format_architecture,
)
from components.architecture.timing import (
    REFERENCE,
    Device,
    Entry,
    device_of,
    entry_from,
    medians,
    quiet_pace,
    time_models,
)
from components.progress import Progress, unwatched
from components.settings.export import Export
from components.settings.latency import Latency

DRAWN_WHOLES = 64
"""Random networks that the measured ones are picked from (ours)."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A whole network of the calibration, milliseconds."""

    architecture: str
    sum_ms: float
    """Sum of its parts without their overhead."""
    entry: Entry


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


def measure(
    space: Space, settings: Latency, export: Export, rng: np.random.Generator, progress: Progress = unwatched
) -> LatencyTable:
    """Time every part and the calibration networks on the target that the settings name, in the precision of `export`.

    `rng` picks the calibration networks. Raises ValueError if ONNX Runtime cannot compute on the target.
    """
    return measure_parts(export_parts(space), space, settings, export, rng, progress)


def measure_parts(
    exported: dict[str, onnx.ModelProto],
    space: Space,
    settings: Latency,
    export: Export,
    rng: np.random.Generator,
    progress: Progress = unwatched,
) -> LatencyTable:
    """The same from parts that are exported already."""
    layers = tuple(str(layer) for layer in space.layers)
    models = PARTS[export.quantize](exported, space, export)
    reference = whole_model(exported, space, export, full_architecture(space))
    part_turns = time_models(models | {REFERENCE: reference}, settings, progress=progress, what="parts")
    first = medians(part_turns)
    chosen = pick_wholes(space, lambda a: sum_of_parts(first, layers, a), settings.calibration, rng)
    composed = {format_architecture(a): whole_model(exported, space, export, a) for a in chosen}
    whole_turns = time_models(composed | {REFERENCE: reference}, settings, progress=progress, what="networks")
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
