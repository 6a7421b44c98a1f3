"""Stage `architecture`: search a network for each latency budget, with latencies predicted from the measured table."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.architecture.budget import limit_of
from components.architecture.costs import costs_of, within_memory
from components.architecture.latency import LatencyTable
from components.architecture.pareto import front, last_scores
from components.architecture.search import PoolUpdate, Scored
from components.architecture.several import search_all
from components.architecture.space import Architecture, Space, format_architecture, space_of
from components.architecture.supernet import SharedWeights, build_supernet
from components.architecture.timing import device_of
from components.charts import score_against_latency
from components.data.batch import require_batch
from components.data.store import Statistics, open_split, read_classes, read_statistics
from components.settings.architecture import Architecture as ArchitectureSettings
from components.settings.budget import Budget
from components.settings.latency import Latency
from components.settings.parallel import Parallel
from components.settings.recipe import Recipe
from components.training.inference import split_tensors
from flows.checkout import files, paths
from flows.resume.architecture_search import finished_stages, with_replay
from flows.runtime.devices import devices_of
from flows.runtime.observer import Observer
from flows.runtime.workers import joblib_parallel

FRONT, FRONT_CHART = paths.ARCHITECTURE / "pareto.csv", paths.ARCHITECTURE / "pareto.svg"
OUTPUTS = (paths.FOUND_ARCHITECTURE, paths.POOL, paths.SCORES, FRONT, FRONT_CHART)

Found = dict[float, PoolUpdate]
"""Budget -> the last update of its search, whose pool begins with the chosen network."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The settings that the stage reads; dvc.yaml lists the same."""

    seed: int
    threads: int
    device: str
    parallel: Parallel
    budget: Budget
    latency: Latency
    architecture: ArchitectureSettings
    recipe: Recipe


def run(params: Reads, observe: Observer, checkpoint: Path) -> None:
    """Write a network for each budget, every pool, every evaluation and the Pareto front."""
    devices = devices_of(params.device)
    settings, statistics, table = params.architecture, read_statistics(paths.STATISTICS), table_of(params)
    require_batch(statistics.counts, params.recipe.batch_size)
    space = within_memory(space_of(settings, read_classes(paths.CLASSES)), settings)
    parallel = joblib_parallel(params.parallel, observe, "candidates")
    weights = shared_weights(params, space, statistics)
    world = with_replay(weights.world(table.predict, parallel, devices), weights, checkpoint)
    last: tuple[PoolUpdate, ...] = ()
    rows: list[dict[str, object]] = []
    searches = search_all(space, world, settings, params.budget.all, params.seed)
    done = finished_stages(checkpoint)
    stages = 1 if settings.strategy == "largest" else len(space.layers)
    for last in observe.progress(searches, stages, "architecture stages", done=done):
        for budget, update in zip(params.budget.all, last, strict=True):
            observe.metrics(pool_metrics(update, metrics_folder(params, budget)), step=update.stage)
            rows += list(pool_rows(update, budget))
    files.write_csv(paths.POOL, rows)
    write(params, space, table, dict(zip(params.budget.all, last, strict=True)))
    for file in OUTPUTS:
        observe.file(file)


def table_of(params: Reads) -> LatencyTable:
    """Read the measured table; warn if it was measured on another machine."""
    table, here = LatencyTable.from_json(files.read_json(paths.LATENCY_TABLE)), device_of(params.latency)
    if table.device != here:
        warnings.warn(
            f"the latency table was measured on {table.device}, this machine is {here}; the network will fit the "
            f"budget there, not here; to measure here: dvc repro --force --single-item latency",
            stacklevel=2,
        )
    return table


def shared_weights(params: Reads, space: Space, statistics: Statistics) -> SharedWeights:
    """Return the supernet with fresh weights on the first device, and the images that it is trained on."""
    device, *_ = devices_of(params.device)
    return SharedWeights(
        build_supernet(space, statistics.mean, statistics.std, params.seed).to(device),
        params.architecture,
        params.recipe,
        split_tensors(open_split(paths.TRAIN)),
        split_tensors(open_split(paths.VAL)),
        params.seed,
    )


def write(params: Reads, space: Space, table: LatencyTable, found: Found) -> None:
    """Write what the searches found for each budget, and the Pareto front of all networks scored."""
    entries = [entry(params, space, table, budget, update) for budget, update in found.items()]
    files.write_json(paths.FOUND_ARCHITECTURE, entries[0] | {"budgets": entries})
    scores = [(budget, one) for budget, update in found.items() for one in update.scores]
    files.write_csv(paths.SCORES, [score_row(one, budget) for budget, one in scores])
    chosen = {budget: update.pool[0].architecture for budget, update in found.items()}
    every = [one for _, one in scores]
    best = front(every)
    files.write_csv(FRONT, [pareto_row(one, chosen) for one in best])
    chart = score_against_latency(
        [(one.latency, one.score) for one in last_scores(every)],
        [(one.latency, one.score) for one in best],
        [(one.latency, one.score) for one in last_scores(every) if one.architecture in chosen.values()],
        list(chosen),
        params.architecture.metric,
    )
    files.write_text(FRONT_CHART, chart)


def entry(params: Reads, space: Space, table: LatencyTable, budget: float, update: PoolUpdate) -> dict[str, object]:
    """Return the record of the network chosen for a budget."""
    best, scores = update.pool[0], {one.architecture: one.score for one in update.scores}
    return {
        "architecture": format_architecture(best.architecture),
        "score": scores.get(best.architecture),
        "potential": best.potential,
        "standard_error": best.standard_error,
        "predicted_latency_ms": table.predict(best.architecture),
        "limit_ms": limit_of(params.architecture, budget),
        "latency_ms": budget,
        "strategy": params.architecture.strategy,
        "evaluations": len(update.scores),
    } | vars(costs_of(space, best.architecture))


def metrics_folder(params: Reads, budget: float) -> str:
    """Return the folder of the budget's metrics; the first budget has the names of a search with one budget."""
    return "architecture" if budget == params.budget.first else f"architecture/{budget:g}ms"


def pool_metrics(update: PoolUpdate, folder: str) -> dict[str, float]:
    """Return metrics of the pool's first network, and of the others under `rank_2`, ...

    MLflow groups charts by the part of the name before the last /.
    """
    values: dict[str, float] = {f"{folder}/pool/evaluations": len(update.scores)}
    for rank, member in enumerate(update.pool, start=1):
        named = {
            "potential": member.potential,
            "standard_error": member.standard_error,
            "lowest": member.lowest,
            "highest": member.highest,
            "latency_ms": member.latency,
        }
        place = f"{folder}/pool" if rank == 1 else f"{folder}/pool/rank_{rank}"
        values |= {f"{place}/{name}": value for name, value in named.items() if value is not None}
    if update.agreement is not None:
        values[f"{folder}/pool/agreement"] = update.agreement
    return values


def pool_rows(update: PoolUpdate, budget: float) -> Iterator[dict[str, object]]:
    """Yield a row for each network in the pool, then one for each that was dropped, with the reason."""
    for rank, candidate in enumerate((*update.pool, *update.dropped), start=1):
        yield {
            "budget_ms": budget,
            "stage": update.stage,
            "rank": rank,
            "architecture": format_architecture(candidate.architecture),
            "potential": candidate.potential,
            "standard_error": candidate.standard_error,
            "lowest": candidate.lowest,
            "highest": candidate.highest,
            "latency_ms": candidate.latency,
            "dropped": candidate.dropped,
        }


def score_row(one: Scored, budget: float) -> dict[str, object]:
    return {
        "budget_ms": budget,
        "stage": one.stage,
        "architecture": format_architecture(one.architecture),
        "score": one.score,
        "latency_ms": one.latency,
    }


def pareto_row(one: Scored, chosen: dict[float, Architecture]) -> dict[str, object]:
    """Return a row of the front; `chosen_for` lists the budgets (milliseconds) that the network was chosen for."""
    return {
        "architecture": format_architecture(one.architecture),
        "latency_ms": one.latency,
        "score": one.score,
        "stage": one.stage,
        "chosen_for": " ".join(f"{budget:g}" for budget, mine in chosen.items() if mine == one.architecture),
    }
