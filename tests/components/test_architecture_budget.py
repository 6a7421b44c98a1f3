"""Several limits at once, against all networks of small spaces counted one by one."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from components.architecture.additive import best_ends, finish, fit_additive
from components.architecture.budget import TRIES, Budget, budget_of, complete, gumbel, undominated
from components.architecture.costs import ADDITIVE, costs_of
from components.architecture.search import Scored, World
from components.architecture.space import Architecture, candidates, canonical, space_of
from components.architecture.strategies import search
from components.data.store import Classes
from components.settings.architecture import Architecture as ArchitectureSettings
from tests.shapes import unchecked

BLOCKS = ("mb_k3_e3", "mb_k5_e2", "res_k3", "mb_k3_e6_se", "identity")
COSTS = {"max_parameters": "parameters", "max_flops": "flops", "max_file_bytes": "file_bytes"}


def settings(**changes: object) -> ArchitectureSettings:
    values: dict[str, object] = {
        "margin": 0.0,
        "stem": 8,
        "stem_stride": 1,
        "stages": ((8, 2, 1), (16, 2, 2)),
        "blocks": BLOCKS,
        "pool": 3,
        "completions": 3,
        "warmup_epochs": 0.0,
        "stage_epochs": 0.0,
    }
    return ArchitectureSettings(**(values | changes))


SPACE = space_of(settings(), Classes(names=("a", "b"), size=8, channels=1))
ALL = list(itertools.product(*(candidates(SPACE, layer) for layer in range(4))))
COUNTED = {a: costs_of(SPACE, a) for a in ALL}


class Latencies:
    """Random, so that they often disagree with the costs about what is cheap."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.costs = [{b: float(rng.uniform(0.05, 0.3)) for b in candidates(SPACE, layer)} for layer in range(4)]

    def __call__(self, architecture: Architecture) -> float:
        return 0.1 + sum(self.costs[layer][block] for layer, block in enumerate(architecture))


def amounts(architecture: Architecture, latency: Latencies) -> np.ndarray:
    counted = COUNTED[architecture]
    return np.array([latency(architecture), *(getattr(counted, name) for name in COSTS.values())])


def limited(seed: int, share: float) -> tuple[Latencies, ArchitectureSettings, float, set[Architecture]]:
    """Limits at a quantile of each cost (of latency beside the settings), and the networks within all of them."""
    latency = Latencies(seed)
    table = np.array([amounts(a, latency) for a in ALL])
    limits = np.quantile(table, share, axis=0)
    chosen = settings(**{name: int(limits[k]) for k, name in enumerate(COSTS, start=1)})
    whole = np.array([limits[0], *limits[1:].astype(int)]) * [1.0, *(1 - ADDITIVE[name][2] for name in COSTS)]
    within = {a for a, row in zip(ALL, table, strict=True) if (row <= whole * (1 + 1e-9)).all()}
    return latency, chosen, float(limits[0]), within


def prefixes() -> Iterator[Architecture]:
    for layer in range(5):
        yield from itertools.product(*(candidates(SPACE, index) for index in range(layer)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.25, 0.4, 0.7])
def test_a_beginning_has_spare_exactly_if_some_network_within_all_limits_begins_so(seed: int, share: float) -> None:
    latency, chosen, latency_ms, within = limited(seed, share)
    if not within:
        with pytest.raises(ValueError, match=r"together|below the cheapest"):
            budget_of(SPACE, latency, chosen, latency_ms)
        return
    budget = budget_of(SPACE, latency, chosen, latency_ms)
    alive = {a[:length] for a in within for length in range(5)}
    for prefix in prefixes():
        assert (budget.spare(prefix) >= 0) == (prefix in alive), prefix
        assert budget.excess(prefix) if prefix not in alive else True


@pytest.mark.parametrize("seed", range(6))
def test_completions_are_within_all_limits_and_found_wherever_there_are_some(seed: int) -> None:
    latency, chosen, latency_ms, within = limited(seed, 0.4)
    budget = budget_of(SPACE, latency, chosen, latency_ms)
    noise = gumbel(np.random.default_rng(0), 4 * TRIES, SPACE)
    for prefix in prefixes():
        found = complete(prefix, budget, noise, 4)
        possible = {a for a in within if a[: len(prefix)] == prefix}
        assert set(found) <= possible
        assert bool(found) == bool(possible)


@pytest.mark.parametrize("seed", range(4))
def test_every_network_within_all_limits_can_be_drawn(seed: int) -> None:
    latency, chosen, latency_ms, within = limited(seed, 0.4)
    budget = budget_of(SPACE, latency, chosen, latency_ms)
    noise = gumbel(np.random.default_rng(0), 40 * len(within), SPACE)
    with unchecked():
        drawn = complete((), budget, noise, len(ALL))
    assert {canonical(SPACE, a) for a in drawn} == {canonical(SPACE, a) for a in within}


def values_of(budget: Budget, seed: int) -> dict[Architecture, float]:
    rng = np.random.default_rng(seed)
    noisy = [Scored(stage=1, architecture=a, score=rng.random(), latency=0.0) for a in ALL[::3]]
    model = fit_additive(SPACE, noisy)
    ends = best_ends(budget, model)
    chosen = finish((), budget, ends)
    return {a: model.predict(a)[0] for a in ALL} | {(): model.predict(chosen)[0]}


def test_the_best_end_is_within_all_limits_and_near_the_best() -> None:
    shortfalls = []
    for seed in range(8):
        latency, chosen, latency_ms, within = limited(seed, 0.4)
        values = values_of(budget_of(SPACE, latency, chosen, latency_ms), seed)
        fitting = sorted((values[a] for a in within), reverse=True)
        assert values[()] in fitting
        shortfalls.append(fitting.index(values[()]) / len(fitting))
    assert np.mean(shortfalls) < 0.1, shortfalls


def test_a_limit_that_does_not_bind_changes_nothing() -> None:
    latency = Latencies(0)
    alone = budget_of(SPACE, latency, settings(), 0.7)
    beside = budget_of(SPACE, latency, settings(max_parameters=10**9, max_flops=10**12), 0.7)
    noise = gumbel(np.random.default_rng(0), 40, SPACE)
    assert complete((), alone, noise, 10) == complete((), beside, noise, 10)
    assert values_of(alone, 0) == values_of(beside, 0)


@pytest.mark.parametrize(("setting", "field"), sorted(COSTS.items()))
def test_a_limit_below_the_cheapest_network_is_named_with_that_networks_value(setting: str, field: str) -> None:
    least = min(getattr(costs, field) for costs in COUNTED.values())
    enough = math.ceil(least / (1 - ADDITIVE[setting][2]))
    with pytest.raises(ValueError, match=rf"{setting} is {enough - 1}.*, below the cheapest network's {least} "):
        budget_of(SPACE, Latencies(0), settings(**{setting: enough - 1}), 1.0)
    assert budget_of(SPACE, Latencies(0), settings(**{setting: enough}), 9.0).spare(()) >= 0


def test_limits_that_exclude_each_other_are_named_together() -> None:
    """One layer; the fast block is the large one."""
    chosen = settings(stages=((8, 1, 1),), blocks=("res_k3", "mb_k3_e1"), max_parameters=500)
    space = space_of(chosen, Classes(names=("a", "b"), size=8, channels=1))
    fast, small = costs_of(space, ("res_k3",)).parameters, costs_of(space, ("mb_k3_e1",)).parameters
    assert small <= 500 < fast
    with pytest.raises(ValueError, match=rf"latency_ms 0.5 and architecture.max_parameters 500 together .*{fast} par"):
        budget_of(space, lambda a: 0.1 if a == ("res_k3",) else 0.9, chosen, 0.5)


def test_rows_that_no_row_undercuts() -> None:
    rows = np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0], [1.0, 3.0], [3.0, 3.0]])
    assert undominated(rows).tolist() == [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]


@pytest.mark.parametrize("strategy", ["pc_nas", "random"])
def test_a_search_under_all_limits_scores_and_keeps_only_networks_within_them(strategy: str) -> None:
    latency, chosen, latency_ms, within = limited(1, 0.4)
    peak = int(np.median([COUNTED[a].memory_bytes for a in within]))
    within = {a for a in within if COUNTED[a].memory_bytes <= peak}
    chosen = ArchitectureSettings(**(vars(chosen) | {"strategy": strategy, "max_memory_bytes": peak}))
    rng = np.random.default_rng(0)
    shown = {a: float(rng.random()) for a in ALL}
    world = World(train_stage=lambda stage, pool: None, score=lambda a, stage: shown[a], latency=latency)
    *_, last = search(SPACE, world, chosen, latency_ms, 0)
    assert {one.architecture for one in last.scores} <= within
    assert last.pool[0].architecture in within
    assert len(within) < len(ALL) / 2
