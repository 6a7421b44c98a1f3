"""Several budgets from one supernet, and the Pareto front: in step, and done by hand."""

import numpy as np
import pytest

from components.architecture.pareto import front, last_scores
from components.architecture.search import Pool, Scored, World
from components.architecture.several import search_all
from components.architecture.space import Architecture, space_of
from components.architecture.strategies import search
from components.data.store import Classes
from components.settings.architecture import Architecture as ArchitectureSettings

BLOCKS = ("mb_k3_e1", "mb_k3_e2", "mb_k3_e6")
MS = dict(zip(BLOCKS, (0.1, 0.2, 0.3), strict=True))


def settings(**changes: object) -> ArchitectureSettings:
    values: dict[str, object] = {
        "margin": 0.0,
        "stem": 8,
        "stem_stride": 1,
        "stages": ((8, 4, 1),),
        "blocks": BLOCKS,
        "pool": 3,
        "completions": 2,
        "warmup_epochs": 0.0,
        "stage_epochs": 0.0,
    }
    return ArchitectureSettings(**(values | changes))


SPACE = space_of(settings(), Classes(names=("a", "b"), size=8, channels=1))


class Table:
    """Scores that change with every training, as a supernet's do, and the trainings there were."""

    def __init__(self) -> None:
        self.trained: list[tuple[int, Pool]] = []

    def score(self, architecture: Architecture, stage: int) -> float:
        rng = np.random.default_rng([len(self.trained), stage, *(BLOCKS.index(block) for block in architecture)])
        return float(np.mean([MS[block] for block in architecture]) + 0.3 * rng.random())

    def world(self) -> World:
        return World(
            train_stage=lambda stage, pool: self.trained.append((stage, pool)),
            score=self.score,
            latency=lambda a: sum(MS[block] for block in a),
        )


@pytest.mark.parametrize("strategy", ["pc_nas", "random", "evolution", "aging_evolution", "ridge"])
def test_each_budget_gets_a_network_within_it_from_one_training(strategy: str) -> None:
    table, budgets = Table(), (0.6, 0.9, 1.1)
    updates = list(search_all(SPACE, table.world(), settings(strategy=strategy), budgets, 0))
    assert [[one.stage for one in record] for record in updates] == [[stage] * 3 for stage in (1, 2, 3, 4)]
    assert [stage for stage, _ in table.trained] == [0, 1, 2, 3, 4]
    for budget, last in zip(budgets, updates[-1], strict=True):
        assert all(one.latency <= budget + 1e-6 for one in last.scores)
        assert len(last.pool[0].architecture) == 4
    assert updates[-1][0].pool[0].latency < updates[-1][2].pool[0].latency


def test_the_shared_weights_are_trained_on_the_pools_of_all_budgets() -> None:
    table = Table()
    updates = list(search_all(SPACE, table.world(), settings(), (0.6, 1.1), 0))
    for record, (stage, members) in zip(updates, table.trained[2:], strict=False):
        assert stage == record[0].stage + 1
        assert set(members) == {c.architecture for update in record for c in update.pool}
        assert len(set(members)) == len(members)


def test_one_budget_alone_is_searched_as_ever() -> None:
    one, many = Table(), Table()
    expected = list(search(SPACE, one.world(), settings(), 0.9, 0))
    assert list(search_all(SPACE, many.world(), settings(), (0.9,), 0)) == [(each,) for each in expected]
    assert one.trained == many.trained


def test_an_impossible_budget_among_others_is_refused_before_any_training() -> None:
    table = Table()
    with pytest.raises(ValueError, match=r"latency_ms is 0\.2 .* below the cheapest network's 0\.4 ms"):
        list(search_all(SPACE, table.world(), settings(), (0.9, 0.2), 0))
    assert table.trained == []


# The front


def point(name: str, stage: int, latency: float, score: float) -> Scored:
    return Scored(stage=stage, architecture=(name,), score=score, latency=latency)


def test_by_hand_the_front_is_of_last_scores_and_of_networks_that_none_beats_in_both() -> None:
    scores = [
        point("a", 1, 1.0, 0.99),  # lucky on a slice
        point("b", 1, 2.0, 0.8),
        point("c", 1, 2.0, 0.7),  # as fast as b
        point("d", 2, 3.0, 0.8),  # as accurate as b, slower
        point("e", 2, 4.0, 0.9),
        point("a", 2, 1.0, 0.5),
    ]
    assert [(one.architecture[0], one.score) for one in front(scores)] == [("a", 0.5), ("b", 0.8), ("e", 0.9)]
    assert [one.architecture[0] for one in last_scores(scores)] == ["a", "b", "c", "d", "e"]


def test_no_scored_network_beats_one_of_the_front_and_every_other_is_beaten() -> None:
    rng = np.random.default_rng(0)
    scores = [point(str(i), 1, *rng.integers(0, 20, 2) / 20) for i in range(200)]
    best = front(scores)

    def beaten(one: Scored) -> bool:
        return any(
            other.latency <= one.latency
            and other.score >= one.score
            and (other.latency, other.score) != (one.latency, one.score)
            for other in scores
        )

    assert not any(beaten(one) for one in best)
    values = {(one.latency, one.score) for one in best}
    assert all(beaten(one) for one in scores if (one.latency, one.score) not in values)
