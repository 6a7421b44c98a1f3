"""A search that starts from networks can end with them, under every strategy, and spends no more for it."""

import itertools
import json
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest

from components.architecture.search import PoolUpdate, World, evaluations
from components.architecture.space import Architecture
from components.architecture.strategies import STRATEGIES, search
from components.architecture.warm_start import from_warm_start, to_warm_start
from components.settings.params import OtherSpace
from tests.components.architecture_table import SIX, Toy, settings, space
from tests.shapes import unchecked

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
STAGES = 5


def begun(toy: Toy, start: tuple[Architecture, ...], **changes: Any) -> list[PoolUpdate]:
    """With types and shapes checked where the limit is tight, for every strategy."""
    with nullcontext() if toy.share_within < 0.4 else unchecked():
        return list(search(toy.space, toy.world(), settings(latency_ms=toy.limit, **changes), 0, start))


def best_of(toy: Toy, count: int) -> tuple[Architecture, ...]:
    within = [a for a in toy.all if toy.latency(a) <= toy.limit]
    return tuple(sorted(within, key=lambda a: -toy.truth[a])[:count])


@every_strategy
def test_a_start_that_holds_the_best_network_ends_with_it_and_one_without_it_does_not(strategy: str) -> None:
    """Without noise every network shows its truth: the choice is the best that was scored. On this table no strategy
    finds the best with so few evaluations."""
    toy = Toy(0, 0.0, settings(), pairs=0.5)
    start, small = best_of(toy, 3), {"strategy": strategy, "potential": "mean", "completions": 1}
    assert begun(toy, start, **small)[-1].pool[0].architecture == start[0]
    assert begun(toy, (), **small)[-1].pool[0].architecture != start[0]


@every_strategy
@pytest.mark.parametrize("potential", ["mean", "additive"])
def test_the_start_is_scored_on_all_of_val_and_no_stage_spends_more(strategy: str, potential: str) -> None:
    toy = Toy(2, 0.7, settings())
    worst = tuple(a for a in toy.all[::-1] if toy.latency(a) <= toy.limit)[:3]
    updates = begun(toy, worst, strategy=strategy, potential=potential)
    last = {one.architecture for one in updates[-1].scores if one.stage == STAGES}
    assert set(worst) <= last
    spent = Counter(one.stage for one in updates[-1].scores)
    planned = evaluations(toy.space, settings())
    assert all(spent[stage] <= count for stage, count in enumerate(planned, start=1))
    assert all(toy.latency(a) <= toy.limit * (1 + 1e-8) for a, _ in toy.asked)


def test_beginnings_of_the_start_stand_among_pc_nas_candidates_and_whoever_gives_way_is_named() -> None:
    toy = Toy(2, 0.7, settings())
    start = tuple(a for a in toy.all[::-1] if toy.latency(a) <= toy.limit)[:3]
    pool: set[Architecture] = {()}
    gave_way = 0
    for update in begun(toy, start):
        judged = {c.architecture for c in (*update.pool, *update.dropped)}
        assert judged == {(*m, block) for m in pool for block in SIX} | {a[: update.stage] for a in start}
        gave_way += sum(c.dropped == "gave way to a network of the start" for c in update.dropped)
        pool = {c.architecture for c in update.pool}
    assert gave_way > 0


@every_strategy
def test_what_cannot_be_chosen_is_dropped_with_the_reason_and_the_rest_is_tried(strategy: str) -> None:
    toy = Toy(0, 0.0, settings(), share_within=0.1)
    cheapest, dearest = (of(toy.all, key=toy.latency) for of in (min, max))
    gone, short = ("mb_k7_e1", *cheapest[1:]), cheapest[:-1]
    first, *_, last = begun(toy, (gone, dearest, short, cheapest), strategy=strategy)
    reasons = {c.architecture: c.dropped for c in first.dropped if c.dropped.startswith("of the start, but ")}
    assert reasons.keys() == {gone, dearest, short}
    assert "its layer 0 is 'mb_k7_e1', the space allows mb_k3_e3" in reasons[gone]
    assert "over the limit" in reasons[dearest]
    assert "it has 4 layers, the space 5" in reasons[short]
    assert cheapest in {one.architecture for one in last.scores if one.stage == STAGES}


@every_strategy
def test_of_a_start_that_is_larger_than_the_pool_or_repeats_a_network_the_first_count(strategy: str) -> None:
    chosen = settings(
        stages=((8, 4, 1),), blocks=("mb_k3_e1", "mb_k3_e2", "identity"), strategy=strategy, latency_ms=9.0, pool=2
    )
    start = tuple(itertools.permutations(("mb_k3_e1", "mb_k3_e2", "identity", "identity")))
    costs = {"mb_k3_e1": 1.0, "mb_k3_e2": 2.0, "identity": 0.0}
    world = World(
        train_stage=lambda stage, pool: None,
        score=lambda a, stage: 0.5 + 0.1 * (a[:2] == start[0][:2]),
        latency=lambda a: sum(costs[block] for block in a),
    )
    *_, last = search(space(chosen), world, chosen, 0, start)
    spent = Counter(one.stage for one in last.scores)
    assert all(spent[stage] <= n for stage, n in enumerate(evaluations(space(chosen), chosen), start=1))
    assert any(sorted(one.architecture) == sorted(start[0]) for one in last.scores if one.stage == 4)


# The record


def test_a_record_gives_each_budget_the_pool_of_the_nearest() -> None:
    toy = Toy(0, 0.0, settings())
    record = json.loads(json.dumps(to_warm_start({1.0: best_of(toy, 2), 0.5: toy.all[:1]})))
    starts = from_warm_start(record, toy.space, settings(latency_ms=(0.9, 0.1, 4.0)))
    assert starts == [best_of(toy, 2), (toy.all[0],), best_of(toy, 2)]


def test_a_record_without_a_network_of_the_space_is_of_another_space() -> None:
    toy = Toy(0, 0.0, settings())
    record = to_warm_start({1.0: (("res_k3",) * 5, ("res_k3",))})
    with pytest.raises(OtherSpace, match="none of its 2 networks is of this space; of the first, its layer 0 is"):
        from_warm_start(record, toy.space, settings())
    with pytest.raises(ValueError, match="names no network"):
        from_warm_start({"budgets": []}, toy.space, settings())
