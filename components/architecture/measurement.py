"""Measurement of every block on the target, once, in ONNX Runtime, so that a network's latency is a table look-up.

Each distinct (block, input shape) is exported by the exporter of the final model (`part_models`) and timed alone, in
turns with all others (`timing`). Then, in milliseconds,

    predicted = intercept + slope * sum over stem, layers and head of (t - o)

    t  median time of a part over its quietest turns
    o  time of a session that computes nothing, which every part has, but a network only once
    slope, intercept: the Theil-Sen line through measured whole networks, composed of the same parts
"""

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import onnx
from scipy.stats import theilslopes

from components.architecture.latency import LatencyTable, Whole, sum_of_parts
from components.architecture.part_models import PARTS, export_parts, whole_model
from components.architecture.parts import EMPTY, full_architecture
from components.architecture.space import (
    Architecture,
    Space,
    candidates,
    format_architecture,
)
from components.architecture.timing import (
    REFERENCE,
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
"""Number of random networks that the calibration networks are picked from (ours)."""


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
    """Make the measurements of `measure` with parts that are exported already."""
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
    """Draw random networks and return up to `count` of them, evenly from the cheapest to the most expensive."""
    legal = [candidates(space, layer) for layer in range(len(space.layers))]
    drawn = {tuple(names[rng.integers(len(names))] for names in legal) for _ in range(DRAWN_WHOLES)}
    ordered = sorted(drawn, key=lambda a: (cost(a), a))
    places = np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int))
    return [ordered[place] for place in places]


def fit_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return slope and intercept by Theil and Sen (medians over pairs), which one disturbed network does not tilt."""
    if len(set(x)) == 1:
        return 1.0, float(np.median(np.subtract(y, x)))
    line = theilslopes(y, x, method="joint")
    return float(line.slope), float(line.intercept)
