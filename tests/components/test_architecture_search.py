"""PC-NAS and its control on toy worlds: planted optima, the limit, cases done by hand, the same records twice."""

import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from components import params
from components.architecture.additive import best_ends, finish, fit_additive
from components.architecture.budget import TRIES, budget_of, complete, gumbel
from components.architecture.pc_nas import extend
from components.architecture.search import Pool, PoolUpdate, Scored, World, evaluations
from components.architecture.space import Architecture, Space, space_of
from components.architecture.strategies import search
from components.data.store import Classes

ROOT = Path(__file__).resolve().parents[2]
STRATEGIES = ("pc_nas", "random")
NOISY = 1.1
"""Standard deviation of the scores' noise, that of the truth being 1: Kendall tau .47, as a real supernet's."""
SIX = ("mb_k3_e3", "mb_k3_e6", "mb_k5_e3", "mb_k5_e6", "mb_k7_e3", "mb_k7_e6")


def settings(**changes: object) -> params.Architecture:
    values: dict[str, object] = {
        "latency_ms": 1.0,
        "margin": 0.0,
        "stem": 8,
        "stem_stride": 1,
        "stages": ((8, 5, 1),),
        "blocks": SIX,
        "pool": 3,
        "completions": 2,
        "warmup_epochs": 0.0,
        "stage_epochs": 0.0,
    }
    return params.Architecture(**(values | changes))


def space(chosen: params.Architecture) -> Space:
    return space_of(chosen, Classes(names=("a", "b"), size=8, channels=1))


def accuracy_of(value: np.ndarray) -> np.ndarray:
    """An accuracy in 0..1 that grows with the value."""
    return 1 / (1 + np.exp(-0.5 * value))


class Toy:
    """A table world over all networks: block effects, pair interactions, dearer blocks mostly better, noisy scores."""

    def __init__(self, seed: int, noise: float, chosen: params.Architecture, share_within: float = 0.4) -> None:
        rng = np.random.default_rng(seed)
        self.space = space(chosen)
        layers, blocks = len(self.space.layers), len(SIX)
        costs = np.sort(rng.uniform(0.05, 0.25, (layers, blocks)), axis=1)
        effects = 0.6 * rng.normal(size=(layers, blocks)) + 6 * costs
        pairs = 0.2 * rng.normal(size=(layers, layers, blocks, blocks))
        grid = np.array(list(itertools.product(range(blocks), repeat=layers)))
        truth = sum(effects[i, grid[:, i]] for i in range(layers))
        truth += sum(pairs[i, j, grid[:, i], grid[:, j]] for i in range(layers) for j in range(i))
        truth = (truth - truth.mean()) / truth.std()
        self.costs = [dict(zip(SIX, row, strict=True)) for row in costs.tolist()]
        self.all = list(itertools.product(SIX, repeat=layers))
        self.truth = dict(zip(self.all, truth.tolist(), strict=True))
        noisy = truth + noise * rng.normal(size=len(truth))
        self.shown = dict(zip(self.all, accuracy_of(noisy).tolist(), strict=True))
        self.limit = float(np.quantile([self.latency(a) for a in self.all], share_within))
        self.trained: list[tuple[int, Pool]] = []

    def latency(self, architecture: Architecture) -> float:
        return 0.1 + float(sum(self.costs[i][b] for i, b in enumerate(architecture)))

    def world(self) -> World:
        return World(
            train_stage=lambda stage, pool: self.trained.append((stage, pool)),
            score=lambda architecture, stage: self.shown[architecture],
            latency=self.latency,
        )

    def regret(self, architecture: Architecture) -> float:
        fitting = [value for a, value in self.truth.items() if self.latency(a) <= self.limit]
        return max(fitting) - self.truth[architecture]


def run(seed: int, noise: float = 0.7, **changes: object) -> tuple[Toy, list[PoolUpdate]]:
    toy = Toy(seed, noise, settings(**changes))
    updates = list(search(toy.space, toy.world(), settings(latency_ms=toy.limit, **changes), seed))
    return toy, updates


@cache
def regrets(**changes: object) -> list[float]:
    """Of the chosen network, a seed each: how much less accurate it is than the best within the limit."""
    results = []
    for seed in range(16):
        toy, updates = run(seed, **changes)
        results.append(toy.regret(updates[-1].pool[0].architecture))
    return results


# Planted optima


def test_pc_nas_beats_random_search_at_no_more_evaluations_when_scores_are_noisy() -> None:
    additive, random = regrets(noise=NOISY, potential="additive"), regrets(noise=NOISY, strategy="random")
    assert ttest_rel(additive, random, alternative="less").pvalue < 0.01
    assert np.mean(additive) < 0.7 * np.mean(random)


def test_the_additive_potential_reads_noisy_scores_better_than_the_mean() -> None:
    additive, mean = regrets(noise=NOISY, potential="additive"), regrets(noise=NOISY, potential="mean")
    assert ttest_rel(additive, mean, alternative="less").pvalue < 0.05


def test_the_mean_potential_beats_random_search_when_scores_are_exact() -> None:
    mean, random = regrets(noise=0.0, potential="mean"), regrets(noise=0.0, strategy="random")
    assert ttest_rel(mean, random, alternative="less").pvalue < 0.01


def test_the_control_spends_what_pc_nas_may_spend() -> None:
    _, updates = run(0, strategy="random")
    planned = evaluations(space(settings()), settings())
    assert planned == [6 * 2, 3 * 6 * 2, 3 * 6 * 2, 3 * 6 * 2, 3 * 6]
    assert len(updates[-1].scores) == sum(planned)
    assert len(run(0)[1][-1].scores) <= sum(planned)


# What holds for every strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("potential", ["mean", "additive"])
@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_no_network_over_the_limit_is_ever_scored_or_kept(strategy: str, potential: str, share: float) -> None:
    chosen = settings(strategy=strategy, potential=potential)
    for seed in range(4):
        toy = Toy(seed, 0.5, chosen, share)
        limited = settings(strategy=strategy, potential=potential, latency_ms=toy.limit)
        for update in search(toy.space, toy.world(), limited, seed):
            assert all(one.latency <= toy.limit * (1 + 1e-8) for one in update.scores)
            assert all(one.latency == toy.latency(one.architecture) for one in update.scores)
            assert 1 <= len(update.pool) <= 3
        assert toy.latency(update.pool[0].architecture) <= toy.limit * (1 + 1e-8)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_record_a_stage_with_all_scores_so_far_and_whole_networks_at_the_end(strategy: str) -> None:
    toy, updates = run(3, strategy=strategy)
    assert [update.stage for update in updates] == [1, 2, 3, 4, 5]
    assert [stage for stage, _ in toy.trained] == [0, 1, 2, 3, 4, 5]
    for earlier, later in itertools.pairwise(updates):
        assert later.scores[: len(earlier.scores)] == earlier.scores
    scored = {one.architecture for one in updates[-1].scores if one.stage == 5}
    assert {c.architecture for c in updates[-1].pool} <= scored
    assert [c.potential for c in updates[-1].pool] == sorted((c.potential for c in updates[-1].pool), reverse=True)


DIGEST = """
from tests.components.test_architecture_search import digest
print(digest({strategy!r}))
"""


def digest(strategy: str) -> str:
    return hashlib.sha256(repr(run(1, strategy=strategy)[1]).encode()).hexdigest()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_records_also_in_another_process(strategy: str) -> None:
    program = DIGEST.format(strategy=strategy)
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert digest(strategy) == other.stdout.strip()
    assert run(1, strategy=strategy)[1] != run(2, strategy=strategy)[1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_limit_below_the_cheapest_network_is_refused_before_any_training(strategy: str) -> None:
    toy = Toy(0, 0.0, settings())
    cheapest = min(toy.latency(a) for a in toy.all)
    impossible = settings(strategy=strategy, latency_ms=cheapest, margin=0.05)
    with pytest.raises(
        ValueError, match=rf"latency_ms is {cheapest:g}.* below the cheapest network's {cheapest:.4g} ms"
    ):
        list(search(toy.space, toy.world(), impossible, 0))
    assert toy.trained == []
    assert list(search(toy.space, toy.world(), settings(strategy=strategy, latency_ms=cheapest), 0))


# By hand

THREE = ("mb_k3_e1", "mb_k3_e2", "mb_k3_e6")
MS = dict(zip(THREE, (1.0, 2.0, 3.0), strict=True))


def by_hand(score: Callable[[Architecture], float], **changes: object) -> list[PoolUpdate]:
    """Two layers, three blocks of 1, 2 and 3 ms."""
    chosen = settings(stages=((8, 2, 1),), blocks=THREE, completions=9, potential="mean", **changes)
    world = World(
        train_stage=lambda stage, pool: None,
        score=lambda architecture, stage: score(architecture),
        latency=lambda architecture: sum(MS[block] for block in architecture),
    )
    return list(search(space(chosen), world, chosen, 0))


def test_by_hand_potentials_are_means_over_the_completions_within_the_limit() -> None:
    first, last = by_hand(lambda a: 10 * MS[a[0]] + MS[a[1]], latency_ms=4.0, pool=2)
    # beginnings of 3, 2 and 1 ms leave 1, 2 and 3 ms: one, two and three completions
    assert [(c.architecture, c.potential) for c in first.pool] == [((THREE[2],), 31.0), ((THREE[1],), 21.5)]
    assert first.pool[1].standard_error == pytest.approx(0.5)
    assert (first.pool[1].lowest, first.pool[1].highest, first.pool[1].latency) == (21.0, 22.0, 3.5)
    (out,) = first.dropped
    assert (out.architecture, out.potential, out.dropped) == ((THREE[0],), 12.0, "rank 3 of 3")
    assert [(c.architecture, c.potential) for c in last.pool] == [
        ((THREE[2], THREE[0]), 31.0),
        ((THREE[1], THREE[1]), 22.0),
    ]
    over = {c.architecture: c.dropped for c in last.dropped if "limit" in c.dropped}
    assert over[THREE[2], THREE[1]] == "over the limit: at least 5 ms of 4"


def test_by_hand_a_beginning_without_completion_is_dropped_with_its_reason() -> None:
    first, last = by_hand(lambda a: MS[a[0]], latency_ms=3.0, pool=5)
    assert [c.architecture for c in first.pool] == [(THREE[1],), (THREE[0],)]
    assert [(c.architecture, c.potential, c.dropped) for c in first.dropped] == [
        ((THREE[2],), None, "over the limit: at least 4 ms of 3")
    ]
    assert last.pool[0].architecture == (THREE[1], THREE[0])


def test_networks_that_differ_by_moved_identities_count_once() -> None:
    chosen = settings(stages=((8, 2, 1),), blocks=("res_k3", "identity"))
    fresh, dropped = extend(space(chosen), (("res_k3",), ("identity",)))
    assert fresh == [("res_k3", "res_k3"), ("res_k3", "identity"), ("identity", "identity")]
    assert [(c.architecture, c.dropped) for c in dropped] == [
        (("identity", "res_k3"), "the same network as res_k3|identity")
    ]


# Completions


def test_completions_are_uniform_among_those_within_the_limit() -> None:
    chosen = settings(stages=((8, 3, 1),), blocks=THREE, latency_ms=5.0)
    budget = budget_of(space(chosen), lambda a: sum(MS[block] for block in a), chosen)
    noise = gumbel(np.random.default_rng(0), 6000, space(chosen))
    drawn = [complete((), budget, draw[None], 1)[0] for draw in noise]
    fitting = [a for a in itertools.product(THREE, repeat=3) if sum(MS[block] for block in a) <= 5]
    assert len(fitting) == 10
    counts = {a: drawn.count(a) for a in fitting}
    assert sum(counts.values()) == 6000
    # multinomial: 600 each, standard deviation 23
    assert all(abs(count - 600) < 4 * 23 for count in counts.values()), counts


def test_candidates_share_their_completions_where_the_limit_does_not_bind() -> None:
    toy = Toy(0, 0.0, settings())
    first = next(search(toy.space, toy.world(), settings(latency_ms=99.0), 0))
    ends: dict[Architecture, list[Architecture]] = {}
    for one in first.scores:
        ends.setdefault(one.architecture[:1], []).append(one.architecture[1:])
    assert len(ends) == 6
    assert len({tuple(these) for these in ends.values()}) == 1


def test_completions_of_a_candidate_differ_and_sampling_never_fails() -> None:
    toy = Toy(4, 0.0, settings(), share_within=0.002)
    budget = budget_of(toy.space, toy.latency, settings(latency_ms=toy.limit))
    noise = gumbel(np.random.default_rng(0), 4 * TRIES, toy.space)
    fitting = [a for a in toy.all if toy.latency(a) <= toy.limit]
    for block in SIX:
        found = complete((block,), budget, noise, 4)
        possible = [a for a in fitting if a[0] == block]
        assert set(found) <= set(possible)
        assert len(found) == len(set(found))
        assert bool(found) == bool(possible)


# The additive model


def expected(toy: Toy, architecture: Architecture, level: float, noise: float = 0.0) -> float:
    """An accuracy whose log odds are additive."""
    return float(accuracy_of(np.array(8 * toy.latency(architecture) - 8 + level + noise)))


def scored(toy: Toy, noise: float) -> list[Scored]:
    """Random networks; the later half is scored at a higher level, as by better weights."""
    rng = np.random.default_rng(0)
    drawn = [toy.all[i] for i in rng.choice(len(toy.all), 400, replace=False)]
    return [
        Scored(
            stage=1 + i // 200,
            architecture=a,
            score=expected(toy, a, level=i // 200, noise=noise * rng.normal()),
            latency=toy.latency(a),
        )
        for i, a in enumerate(drawn)
    ]


def test_the_additive_model_recovers_additive_scores_at_the_newest_stages_level() -> None:
    toy = Toy(0, 0.0, settings())
    model = fit_additive(toy.space, scored(toy, noise=0.0))
    errors = [model.predict(a)[0] - expected(toy, a, level=1) for a in toy.all[::37]]
    assert np.abs(errors).max() < 2e-3


def test_the_standard_error_of_the_additive_model_covers_its_error() -> None:
    toy = Toy(0, 0.0, settings())
    model = fit_additive(toy.space, scored(toy, noise=0.5))
    ratios = [(model.predict(a)[0] - expected(toy, a, level=1)) / model.predict(a)[1] for a in toy.all[::37]]
    assert 0.3 < np.std(ratios) < 2.0


def test_the_best_end_is_the_best_of_all_that_fit() -> None:
    toy = Toy(2, 0.0, settings())
    budget = budget_of(toy.space, toy.latency, settings(latency_ms=toy.limit))
    rng = np.random.default_rng(0)
    noisy = [Scored(stage=1, architecture=a, score=rng.random(), latency=0.0) for a in toy.all[::11]]
    model = fit_additive(toy.space, noisy)
    ends = best_ends(budget, model)
    for prefix in [(), (SIX[3],), (SIX[5], SIX[5])]:
        fitting = [a for a in toy.all if a[: len(prefix)] == prefix and toy.latency(a) <= toy.limit]
        best = max(model.predict(a)[0] for a in fitting)
        chosen = finish(prefix, budget, ends)
        assert chosen in fitting
        assert model.predict(chosen)[0] == pytest.approx(best, abs=0.005)
