"""Predicted against measured latency: 40 whole networks that the table has never seen, in float and in int8.

The space mixes operations: inverted bottlenecks of kernel 3, 5, 7 and expansion 3, 6, two of them with squeeze-excite,
the residual block, the identity; 32-pixel images. Of a held-out network every layer that can be is the identity with
one probability, drawn anew for each network from 0 to 0.8 (a search under several budgets meets small and large ones),
else a block drawn uniformly. Every eighth is exported whole by the exporter of the shipping file, the others are
composed from their parts' graphs, which gives the same operators (tests/components/test_latency.py).

All networks are measured twice, with new sessions and in turns with a reference: what the second time differs from the
first is the noise floor. The FLOPs proxy is the least-squares line through the table's own calibration networks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import onnx
from scipy.stats import kendalltau, spearmanr

from components.architecture.costs import costs_of
from components.architecture.latency import LatencyTable
from components.architecture.measurement import measure_parts
from components.architecture.network import build_network, seeded
from components.architecture.part_models import export_parts, random_images, shift, whole_model
from components.architecture.parts import full_architecture
from components.architecture.space import (
    IDENTITY,
    Architecture,
    Space,
    candidates,
    format_architecture,
    parse_architecture,
    space_of,
)
from components.architecture.timing import REFERENCE, medians, time_models
from components.data.store import Classes
from components.settings.architecture import Architecture as ArchitectureSettings
from components.settings.export import Export
from components.settings.latency import Latency
from components.shipping.export import export_network
from components.shipping.quantisation import convert
from tests.benchmarks.harness import Row, markdown, spread

SEEDS = (1,)
CLASSES = Classes(names=tuple("abcdefghij"), size=32, channels=3)
SPACE = ArchitectureSettings(
    stem=16,
    stem_stride=1,
    stages=((24, 2, 2), (48, 3, 2), (96, 3, 2)),
    blocks=(
        "mb_k3_e3", "mb_k3_e6", "mb_k5_e3", "mb_k5_e6", "mb_k7_e3", "mb_k7_e6", "mb_k3_e6_se", "mb_k5_e3_se",
        "res_k3", "identity",
    ),
    warmup_epochs=0.0,
    stage_epochs=0.0,
)  # fmt: skip
HELD_OUT = 40
EXPORTED_EVERY = 8
MOST_IDENTITIES = 0.8
TARGET = Latency()
PRECISIONS = {"float32": Export(), "int8": Export(quantize="int8")}
CALIBRATION, UNSEEN = "calibration", "held out"


def rows() -> Iterator[Row]:
    space = space_of(SPACE, CLASSES)
    for seed in SEEDS:
        exported = export_parts(space)
        for precision, export in PRECISIONS.items():
            measured = measure_parts(exported, space, TARGET, export, np.random.default_rng(seed))
            known = {whole.architecture for whole in measured.wholes}
            held_out = draw(space, known, np.random.default_rng([seed, 1]))
            networks = dict.fromkeys(sorted(known), CALIBRATION) | dict.fromkeys(held_out, UNSEEN)
            whole = set(held_out[::EXPORTED_EVERY])
            models = {name: model_of(space, name, export, None if name in whole else exported) for name in networks}
            models[REFERENCE] = whole_model(exported, space, export, full_architecture(space))
            first, second = (medians(time_models(models, TARGET)) for _ in range(2))
            for name, role in networks.items():
                yield {
                    "precision": precision, "seed": seed, "role": role, "net": name,
                    "exported": "whole" if name in whole else "parts",
                } | figures(space, measured, name, first[name], second[name])  # fmt: skip


def figures(space: Space, table: LatencyTable, name: str, first: float, second: float) -> Row:
    architecture = parse_architecture(space, name)
    times = {
        "predicted_ms": table.predict(architecture),
        "measured_ms": first,
        "repeat_measured_ms": second,
    }
    return {key: round(ms, 5) for key, ms in times.items()} | {"flops": costs_of(space, architecture).flops}


def draw(space: Space, known: set[str], rng: np.random.Generator) -> list[str]:
    """Distinct networks, none of those that the table's line was fitted to."""
    drawn: dict[str, None] = {}
    while len(drawn) < HELD_OUT:
        identities = MOST_IDENTITIES * rng.random()
        name = format_architecture(tuple(block(space, layer, identities, rng) for layer in range(len(space.layers))))
        if name not in known:
            drawn[name] = None
    return list(drawn)


def block(space: Space, layer: int, identities: float, rng: np.random.Generator) -> str:
    legal = candidates(space, layer)
    if IDENTITY in legal and rng.random() < identities:
        return IDENTITY
    others = [name for name in legal if name != IDENTITY]
    return others[rng.integers(len(others))]


def model_of(
    space: Space, name: str, export: Export, exported: Mapping[str, onnx.ModelProto] | None
) -> onnx.ModelProto:
    """The network from its parts, or exported whole where no parts are given."""
    architecture = parse_architecture(space, name)
    if exported is not None:
        return whole_model(exported, space, export, architecture)
    return convert(exported_whole(space, architecture), random_images(space), export)


@cache
def exported_whole(space: Space, architecture: Architecture) -> onnx.ModelProto:
    """As `train` does it, without the training."""
    network = build_network(space, architecture, (0.5,) * space.channels, (0.25,) * space.channels)
    with seeded(0, "benchmark"):
        shift([network])
    return export_network(network, CLASSES, format_architecture(architecture))


# --- the table

Pair = tuple[list[float], list[float]]
"""What was predicted, and what was measured."""


def table(rows: Sequence[Row]) -> str:
    lines = []
    for precision in dict.fromkeys(str(row["precision"]) for row in rows):
        same = [row for row in rows if row["precision"] == precision]
        seeds = [[row for row in same if row["seed"] == seed] for seed in dict.fromkeys(row["seed"] for row in same)]
        for predictor, pair in PREDICTORS.items():
            judged = [judge(*pair(one)) for one in seeds]
            scores = [spread([each[k] for each in judged], digits) for k, digits in enumerate((1, 4, 3))]
            lines.append([precision, predictor, len(pair(seeds[0])[0]), *scores])
    return markdown(["precision", "predicted by", "networks", "MAPE, %", "Spearman", "Kendall"], lines)


def judge(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float, float]:
    """Mean absolute percentage error, Spearman's rho, Kendall's tau-b."""
    error = 100 * float(np.mean(np.abs(np.divide(predicted, measured) - 1)))
    return error, float(spearmanr(predicted, measured).statistic), float(kendalltau(predicted, measured).statistic)


def of(rows: Sequence[Row], key: str, role: str = UNSEEN) -> list[float]:
    return [float(str(row[key])) for row in rows if row["role"] == role]


def by_table(rows: Sequence[Row]) -> Pair:
    return of(rows, "predicted_ms"), of(rows, "measured_ms")


def by_table_exported_whole(rows: Sequence[Row]) -> Pair:
    return by_table([row for row in rows if row["exported"] == "whole"])


def by_the_second_measurement(rows: Sequence[Row]) -> Pair:
    return of(rows, "repeat_measured_ms"), of(rows, "measured_ms")


def by_flops(rows: Sequence[Row]) -> Pair:
    slope, intercept = np.polyfit(of(rows, "flops", CALIBRATION), of(rows, "measured_ms", CALIBRATION), 1)
    return [intercept + slope * flops for flops in of(rows, "flops")], of(rows, "measured_ms")


PREDICTORS: dict[str, Callable[[Sequence[Row]], Pair]] = {
    "the table": by_table,
    "the table, networks exported whole": by_table_exported_whole,
    "the second measurement (noise floor)": by_the_second_measurement,
    "FLOPs (a line)": by_flops,
}
