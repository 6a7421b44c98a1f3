"""PC-NAS: planted optima, cases done by hand, completions under the limit, the additive model."""

import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy.stats import ttest_rel

from components.architecture.additive import best_ends, finish, fit_additive
from components.architecture.budget import TRIES, budget_of, complete, gumbel
from components.architecture.pc_nas import extend, rank_correlation
from components.architecture.search import PoolUpdate, Scored, World
from components.architecture.space import Architecture, canonical
from components.architecture.strategies import search
from tests.components.architecture_table import NOISY, SIX, Toy, accuracy_of, regrets, settings, space
from tests.shapes import unchecked

of_tables = cache(lambda noise, **changes: regrets(24, noise, **changes))


# Planted optima


def test_pc_nas_beats_random_search_at_no_more_evaluations_when_scores_are_noisy() -> None:
    additive, random = of_tables(NOISY, potential="additive"), of_tables(NOISY, strategy="random")
    assert ttest_rel(additive, random, alternative="less").pvalue < 0.01
    assert np.mean(additive) < 0.7 * np.mean(random)


def test_the_additive_potential_reads_noisy_scores_better_than_the_mean() -> None:
    additive, mean = of_tables(NOISY, potential="additive"), of_tables(NOISY, potential="mean")
    assert ttest_rel(additive, mean, alternative="less").pvalue < 0.05


def test_the_mean_potential_beats_random_search_when_scores_are_exact() -> None:
    mean, random = of_tables(0.0, potential="mean"), of_tables(0.0, strategy="random")
    assert ttest_rel(mean, random, alternative="less").pvalue < 0.01


@pytest.mark.parametrize("potential", ["mean", "additive"])
def test_halves_of_the_completions_agree_on_scores_and_not_on_noise(potential: str) -> None:
    def agreements(noise: float) -> list[float]:
        chosen = settings(potential=potential, completions=6, pool=3)
        toys = [Toy(seed, noise, chosen) for seed in range(12)]
        with unchecked():
            runs = [search(toy.space, toy.world(), chosen, toy.limit, 0) for toy in toys]
            *stages, last = zip(*runs, strict=True)
        assert {update.agreement for update in last} == {None}  # one score a network
        return [update.agreement for stage in stages for update in stage if update.agreement is not None]

    assert np.mean(agreements(0.0)) > 0.4
    assert abs(np.mean(agreements(100.0))) < 0.2


def test_the_rank_correlation_is_none_where_there_is_nothing_to_order() -> None:
    assert rank_correlation([1.0, 2.0, 2.0, 3.0], [0.1, 0.4, 0.4, 0.9]) == pytest.approx(1)
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None


# By hand

THREE = ("mb_k3_e1", "mb_k3_e2", "mb_k3_e6")
MS = dict(zip(THREE, (1.0, 2.0, 3.0), strict=True))


def by_hand(score: Callable[[Architecture], float], latency_ms: float, pool: int) -> list[PoolUpdate]:
    """Two layers, three blocks of 1, 2 and 3 ms."""
    chosen = settings(stages=((8, 2, 1),), blocks=THREE, completions=9, potential="mean", pool=pool)
    world = World(
        train_stage=lambda stage, pool: None,
        score=lambda architecture, stage: score(architecture),
        latency=lambda architecture: sum(MS[block] for block in architecture),
    )
    return list(search(space(chosen), world, chosen, latency_ms, 0))


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
    chosen = settings(stages=((8, 3, 1),), blocks=THREE)
    budget = budget_of(space(chosen), lambda a: sum(MS[block] for block in a), chosen, 5.0)
    noise = gumbel(np.random.default_rng(0), 6000, space(chosen))
    with unchecked():
        drawn = [complete((), budget, draw[None], 1)[0] for draw in noise]
    fitting = [a for a in itertools.product(THREE, repeat=3) if sum(MS[block] for block in a) <= 5]
    assert len(fitting) == 10
    counts = {a: drawn.count(a) for a in fitting}
    assert sum(counts.values()) == 6000
    # multinomial: 600 each, standard deviation 23
    assert all(abs(count - 600) < 4 * 23 for count in counts.values()), counts


def test_candidates_share_their_completions_where_the_limit_does_not_bind() -> None:
    toy = Toy(0, 0.0, settings())
    first = next(search(toy.space, toy.world(), settings(), 99.0, 0))
    ends: dict[Architecture, list[Architecture]] = {}
    for one in first.scores:
        ends.setdefault(one.architecture[:1], []).append(one.architecture[1:])
    assert len(ends) == 6
    assert len({tuple(these) for these in ends.values()}) == 1


def test_completions_of_a_candidate_differ_and_sampling_never_fails() -> None:
    toy = Toy(4, 0.0, settings(), share_within=0.002)
    budget = budget_of(toy.space, toy.latency, settings(), toy.limit)
    noise = gumbel(np.random.default_rng(0), 4 * TRIES, toy.space)
    fitting = [a for a in toy.all if toy.latency(a) <= toy.limit]
    for block in SIX:
        found = complete((block,), budget, noise, 4)
        possible = [a for a in fitting if a[0] == block]
        assert set(found) <= set(possible)
        assert len(found) == len(set(found))
        assert bool(found) == bool(possible)


def test_completions_that_differ_by_moved_identities_count_once() -> None:
    chosen = settings(stages=((8, 3, 1),), blocks=("res_k3", "identity"))
    budget = budget_of(space(chosen), lambda a: 1.0 * len(a), chosen, 9.0)
    found = complete(("res_k3",), budget, gumbel(np.random.default_rng(0), 50, space(chosen)), 4)
    # the four ends are three networks: no, one and two identities
    assert len(found) == 3
    assert len({canonical(space(chosen), a) for a in found}) == 3


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
    budget = budget_of(toy.space, toy.latency, settings(), toy.limit)
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
