"""architecture: PC-NAS on the data, under the budget that the latency table speaks of."""

import warnings
from collections.abc import Iterator

from components.architecture.budget import limit_of
from components.architecture.latency import LatencyTable, device_of
from components.architecture.search import PoolUpdate
from components.architecture.space import format_architecture, space_of
from components.architecture.strategies import search
from components.architecture.supernet import SharedWeights, build_supernet
from components.data.store import open_split, read_classes, read_statistics
from components.params import Params
from components.training import split_tensors
from flows import files, paths
from flows.devices import devices_of
from flows.observer import Observer


def run(params: Params, observe: Observer) -> None:
    """Write the chosen architecture, the pool of every stage and every evaluation."""
    device, *_ = devices_of(params.device)
    settings, statistics = params.architecture, read_statistics(paths.STATISTICS)
    space = space_of(settings, read_classes(paths.CLASSES))
    table = table_of(params)
    weights = SharedWeights(
        build_supernet(space, statistics.mean, statistics.std, params.seed).to(device),
        settings,
        params.train.recipe,
        split_tensors(open_split(paths.TRAIN)),
        split_tensors(open_split(paths.VAL)),
        params.seed,
    )
    updates = search(space, weights.world(table.predict), settings, params.seed)
    rows: list[dict[str, object]] = []
    for update in observe.progress(updates, len(space.layers), "architecture"):
        observe.metrics(pool_metrics(update), step=update.stage)
        rows += list(pool_rows(update))
    files.write_json(paths.ARCHITECTURE / "architecture.json", choice(params, table, update))
    files.write_csv(paths.ARCHITECTURE / "pool.csv", rows)
    files.write_csv(paths.ARCHITECTURE / "scores.csv", list(score_rows(update)))
    for name in ("architecture.json", "pool.csv", "scores.csv"):
        observe.file(paths.ARCHITECTURE / name)


def table_of(params: Params) -> LatencyTable:
    """The measured table; warns if it speaks of another machine than this one."""
    table, here = LatencyTable.from_json(files.read_json(paths.LATENCY / "table.json")), device_of(params.latency)
    if table.device != here:
        warnings.warn(
            f"the latency table was measured on {table.device}, this machine is {here}; the network will fit the "
            f"budget there, not here; to measure here: dvc repro --force --single-item latency",
            stacklevel=2,
        )
    return table


def choice(params: Params, table: LatencyTable, update: PoolUpdate) -> dict[str, object]:
    best = update.pool[0]
    score = next(one.score for one in reversed(update.scores) if one.architecture == best.architecture)
    return {
        "architecture": format_architecture(best.architecture),
        "score": score,
        "potential": best.potential,
        "standard_error": best.standard_error,
        "predicted_latency_ms": table.predict(best.architecture),
        "limit_ms": limit_of(params.architecture),
        "latency_ms": params.architecture.latency_ms,
        "strategy": params.architecture.strategy,
        "evaluations": len(update.scores),
    }


def pool_metrics(update: PoolUpdate) -> dict[str, float]:
    values: dict[str, float] = {"architecture/pool/evaluations": len(update.scores)}
    for rank, member in enumerate(update.pool):
        named = {
            "potential": member.potential,
            "standard_error": member.standard_error,
            "lowest": member.lowest,
            "highest": member.highest,
            "latency": member.latency,
        }
        values |= {f"architecture/pool/{name}_{rank}": value for name, value in named.items() if value is not None}
    values["architecture/pool/best"] = values["architecture/pool/potential_0"]
    return values


def pool_rows(update: PoolUpdate) -> Iterator[dict[str, object]]:
    """Members first, then who was dropped and why."""
    for rank, candidate in enumerate((*update.pool, *update.dropped), start=1):
        yield {
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


def score_rows(update: PoolUpdate) -> Iterator[dict[str, object]]:
    for one in update.scores:
        yield {
            "stage": one.stage,
            "architecture": format_architecture(one.architecture),
            "score": one.score,
            "latency_ms": one.latency,
        }
