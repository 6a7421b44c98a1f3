"""Make the section on the architecture search: networks scored, the pool at each stage, the choice, its latency."""

import math
from collections.abc import Iterator
from typing import Any

from components.architecture.latency import LatencyTable
from components.architecture.pareto import front, last_scores
from components.architecture.search import Scored
from components.architecture.space import IDENTITY, POOL, Space, blocks_of, parse_architecture, parse_block, space_of
from components.charts import score_against_latency
from components.data.store import read_classes
from components.settings.params import Params
from components.settings.variants import VARIANTS
from flows.checkout import paths
from flows.checkout.files import read_json
from flows.report import figures, searched
from flows.report.figures import Judged
from flows.report.parts import Chain, Figure, Link, Maker, Note, Part, Table
from flows.report.reading import Row, chain, interval, milliseconds, number, percent, quantity, read_rows
from flows.report.results import read_results

DRAWN = 2000
"""Largest number of networks in the chart of scores."""
LISTED = 60
"""Largest number of rows in the pool's table."""
PLAIN = {"res": "3×3 residual block", POOL: "two 3×3 convolutions with max pooling between them"}
"""Families of plain convolutions, in words."""


def method(params: Params) -> Iterator[Part]:
    yield from searched.frozen_note("architecture")
    settings, found = params.architecture, read_json(paths.FOUND_ARCHITECTURE)
    yield Note(
        text=f"Strategy {found['strategy']}: {quantity(found['evaluations'], 'evaluation')} with shared weights, under "
        f"{milliseconds(found['latency_ms'])} less {settings.margin:.0%} margin."
    )


def candidates(params: Params) -> Iterator[Part]:
    """Show score against latency for every network that was scored."""
    every = [
        Scored(
            stage=int(row["stage"]),
            architecture=blocks_of(row["architecture"]),
            score=float(row["score"]),
            latency=float(row["latency_ms"]),
        )
        for row in read_rows(paths.SCORES)
    ]
    budgets = read_json(paths.FOUND_ARCHITECTURE)["budgets"]
    chosen = {blocks_of(entry["architecture"]) for entry in budgets}
    last = last_scores(every)
    step = -(-len(last) // DRAWN)
    fewer = f" One in {step} is drawn." if step > 1 else ""
    yield Figure(
        svg=figures.with_open_axes(
            lambda: score_against_latency(
                points(last[::step]),
                points(front(every)),
                points([one for one in last if one.architecture in chosen]),
                [entry["latency_ms"] for entry in budgets],
                params.architecture.metric,
            )
        ),
        label=f"{quantity(len(last), 'network')} scored; chosen for {milliseconds(budgets[0]['latency_ms'])}: "
        f"{params.architecture.metric} "
        f"{percent(budgets[0]['score'])} at {milliseconds(budgets[0]['predicted_latency_ms'])}",
        caption=f"Every network that was scored ({len(last):,}), each by its last score with the shared weights. "
        "These scores rank networks; they are not what a network reaches when it is trained alone." + fewer,
    )


def points(some: list[Scored]) -> list[tuple[float, float]]:
    return [(one.latency, one.score) for one in some]


def pool(params: Params) -> Iterator[Part]:
    rows = [row for row in read_rows(paths.POOL) if float(row["budget_ms"]) == params.budget.first]
    judged = [judged_of(row) for row in rows if row["potential"]]
    yield Figure(
        svg=figures.pool_by_stage(judged, params.architecture.metric),
        label=f"{quantity(len(judged), 'candidate')} in {quantity(len({one.stage for one in judged}), 'stage')}",
        caption="What each stage expected of its candidates, with standard errors where there are any: "
        "who stayed in the pool, and who was dropped.",
    )
    yield Table(
        header=["stage", "rank", "expected", "latency", "blocks", ""],
        rows=[pool_row(row) for row in rows[:LISTED]],
        caption=f"The first {LISTED} of {len(rows)} rows; all are in results/architecture/pool.csv."
        if len(rows) > LISTED
        else "",
        fold=f"The pool, {quantity(len(rows), 'row')}",
    )


def judged_of(row: Row) -> Judged:
    error = number(row["standard_error"])
    return Judged(
        stage=int(row["stage"]),
        potential=float(row["potential"]),
        error=math.nan if error is None else error,
        kept=not row["dropped"],
    )


def pool_row(row: Row) -> list[str]:
    potential, latency = number(row["potential"]), number(row["latency_ms"])
    return [
        row["stage"],
        row["rank"],
        "" if potential is None else percent(potential),
        "" if latency is None else milliseconds(latency),
        chain(row["architecture"]),
        row["dropped"] or "in the pool",
    ]


def chains(params: Params) -> Iterator[Part]:
    """Show the block chosen for each layer, in one chain for each budget."""
    space = space_of(params.architecture, read_classes(paths.CLASSES))
    for entry in read_json(paths.FOUND_ARCHITECTURE)["budgets"]:
        caption = chain_caption(entry, params.architecture.metric)
        yield Chain(links=list(links(space, entry["architecture"])), caption=caption)


def chain_caption(entry: dict[str, Any], metric: str) -> str:
    return (
        f"Chosen for {milliseconds(entry['latency_ms'])}: predicted {milliseconds(entry['predicted_latency_ms'])}, "
        f"{entry['parameters']:,} parameters, {entry['flops'] / 1e6:.3g} million FLOPs, "
        f"{metric} {percent(entry['score'])} with shared weights."
    )


def further_budgets(params: Params) -> Iterator[Part]:
    """Show the results of the models of further budgets."""
    further = [name for name in params.train.variants if name not in VARIANTS]
    if further:
        yield Table(
            header=["model", "accuracy", "95% interval", "latency", "predicted", "budget"],
            rows=[budget_row(variant) for variant in further],
            caption="The networks of further budgets, trained and measured as the first one's is.",
        )
    elif len(params.budget.all) > 1:
        yield Note(text="The networks of further budgets were not trained and measured (train.variants).")


def budget_row(variant: str) -> list[str]:
    own, time = (read_json(paths.of_variant(path, variant)) for path in (paths.METRICS, paths.MEASURED))
    return [
        variant,
        percent(own["accuracy"]),
        interval(own),
        milliseconds(time["quiet_ms"]),
        milliseconds(time["predicted_ms"]),
        milliseconds(time["limit_ms"]),
    ]


def links(space: Space, text: str) -> Iterator[Link]:
    yield Link(name="image", detail=f"{space.size}×{space.size}×{space.channels}")
    yield Link(name="stem", detail=f"3×3, {space.stem} channels", meaning="convolution")
    for name, layer in zip(parse_architecture(space, text), space.layers, strict=True):
        side = -(-layer.size // layer.stride)
        detail = "skipped" if name == IDENTITY else f"{side}×{side}×{layer.outputs}"
        yield Link(name=name, detail=detail, meaning=meaning(name), skipped=name == IDENTITY)
    yield Link(
        name="classifier", detail=quantity(space.classes, "class", "classes"), meaning="mean over pixels, then linear"
    )


def meaning(name: str) -> str:
    """Describe a block, given by its name, in words."""
    block = parse_block(name)
    if block.family == "mb":
        squeeze = ", squeeze-and-excitation" if block.squeeze else ""
        return f"inverted bottleneck, {block.kernel}×{block.kernel} depthwise, expansion {block.expansion}{squeeze}"
    if block.family in PLAIN:
        return PLAIN[block.family] + (f", {block.expansion} times as wide inside" if block.expansion > 1 else "")
    return "no layer"


def latency(params: Params) -> Iterator[Part]:
    """Show predicted against measured latency, for the calibration's networks and for the trained ones."""
    table = LatencyTable.from_json(read_json(paths.LATENCY_TABLE))
    measured = read_results(params).latency
    calibration = [(table.line(whole.sum_ms), whole.entry.ms) for whole in table.wholes]
    named = {name: (own["predicted_ms"], own["quiet_ms"]) for name, own in measured.items()}
    off = {name: own / predicted - 1 for name, (predicted, own) in named.items()}
    yield Figure(
        svg=figures.predicted_against_measured(calibration, named),
        label="; ".join(f"{name}: predicted {p:.4g} ms, measured {m:.4g} ms" for name, (p, m) in named.items()),
        caption=f"The searched network is {abs(off['searched']):.1%} {'slower' if off['searched'] > 0 else 'faster'} "
        f"than predicted. The table was measured on {table.device}.",
    )


MAKERS: dict[str, Maker] = {
    "how it was searched": method,
    "the chosen networks": chains,
    "the models of further budgets": further_budgets,
    "the networks scored": candidates,
    "the pool": pool,
    "predicted and measured latency": latency,
}
