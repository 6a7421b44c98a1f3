"""The engine on toy worlds: it finds a planted optimum, repeats itself, and survives what goes wrong.

A toy model is one number w; a sample says by how much a trunk raises it; val's score is w itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float64

from components.online.averaging import broadcast, mean_state
from components.online.controllers import CONTROLLERS
from components.online.engine import Trunk, align_gradients, attempt, race_copies, search
from components.online.rewards import BLOCK, TargetGradient, alignments, inner_products, judge, leave_one_out
from components.settings.online import Online
from components.streams import stream
from components.training.loop import Diverged, State
from components.training.parallel import Parallel, WorkerDied, sequential
from tests.shapes import unchecked

KINDS = 12
PLANTED = 7


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of KINDS, by softmax: the smallest distribution there is."""

    theta: Float64[np.ndarray, " p"]

    def shares(self) -> Float64[np.ndarray, " p"]:
        weights = np.exp(self.theta - self.theta.max())
        return weights / weights.sum()

    def sample(self, count: int, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(rng.choice(len(self.theta), size=count, p=self.shares()).tolist())

    def probes(self, count: int, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(range(len(self.theta)))

    def score_gradient(self, sample: int) -> Float64[np.ndarray, " p"]:
        return self.features(sample) - self.shares()

    def features(self, sample: int) -> Float64[np.ndarray, " p"]:
        return np.eye(len(self.theta))[sample]

    def prior(self) -> Float64[np.ndarray, "p p"]:
        return np.eye(len(self.theta))

    def at(self, theta: Float64[np.ndarray, " p"]) -> "Choice":
        return replace(self, theta=theta)

    @property
    def slots(self) -> int:
        return 2

    def toward(self, shares: Float64[np.ndarray, " n"], rate: float) -> "Choice":
        return self.at(np.log((1 - rate) * self.shares() + rate * shares / max(shares.sum(), 1e-9) + 1e-9))


@dataclass(frozen=True)
class Climb:
    """A trunk raises w by 1 for the planted kind, by 0 for others, plus noise of copy and trunk."""

    noise: float = 0.5
    seed: int = 0

    def __call__(self, state: State, sample: int, trunk: int, copy: int) -> State:
        rng = stream(self.seed, "copy training", trunk, copy)
        gain = float(sample == PLANTED) + self.noise * rng.standard_normal()
        return {"model.w": state["model.w"] + gain}


def height(state: State) -> float:
    return state["model.w"].item()


def settings(**changes: Any) -> Online:
    return replace(Online(trunks=60, copies=8, images=1, warmup_trunks=2, learn_until=1.0), **changes)


def start(value: float = 0.0) -> State:
    return {"model.w": torch.tensor(value, dtype=torch.float64)}


def toy(
    seed: int = 0,
    train: Callable[..., State] | None = None,
    parallel: Parallel = sequential,
    after: Trunk[int] | None = None,
    **changes: Any,
) -> list[Trunk[int]]:
    return list(
        search(
            Choice(theta=np.zeros(KINDS)),
            start(),
            play=partial(race_copies, train=train or Climb(seed=seed), score=height),
            score=height,
            settings=settings(**changes),
            seed=seed,
            parallel=parallel,
            after=after,
        )
    )


def planted_mass(trunks: Sequence[Trunk[int]]) -> float:
    """Relative to uniform."""
    return float(Choice(theta=trunks[-1].theta).shares()[PLANTED] * KINDS)


def masses(seeds: int, **changes: Any) -> list[float]:
    """Of as many searches, the first with types and shapes checked."""
    first = planted_mass(toy(0, **changes))
    with unchecked():
        return [first, *(planted_mass(toy(seed, **changes)) for seed in range(1, seeds))]


@pytest.mark.parametrize("reward", ["own", "leave_one_out"])
@pytest.mark.parametrize("rule", ["best", "average"])
def test_finds_the_planted_optimum_and_the_null_controller_does_not(
    reward: Literal["own", "leave_one_out"], rule: Literal["best", "average"]
) -> None:
    found = masses(5, reward=reward, broadcast=rule)
    null = masses(5, reward=reward, broadcast=rule, controller="null")
    assert min(found) > 4
    assert null == [1.0] * 5


def test_rewards_of_noise_alone_do_not_single_out_the_planted_kind() -> None:
    def only_noise(state: State, sample: int, trunk: int, copy: int) -> State:
        return {"model.w": state["model.w"] + stream(9, "copy training", trunk, copy).standard_normal()}

    assert np.median(masses(12, train=only_noise)) < 2


def test_same_seed_same_records_and_another_seed_others() -> None:
    assert toy(3) == toy(3)
    assert all(np.array_equal(a.theta, b.theta) for a, b in zip(toy(3), toy(3), strict=True))
    assert toy(3) != toy(4)


def test_records_do_not_depend_on_the_order_in_which_copies_run() -> None:
    def backwards(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [function(*each) for each in reversed(arguments)][::-1]

    shuffled = search(
        Choice(theta=np.zeros(KINDS)), start(), play=partial(race_copies, train=Climb(), score=height), score=height,
        settings=settings(), seed=0,
        parallel=backwards,
    )  # fmt: skip
    assert list(shuffled) == toy(0)


@pytest.mark.parametrize("controller", sorted(set(CONTROLLERS) - {"matching"}))
@pytest.mark.parametrize("last", [0, 1, 2, 17, 28, 29])
def test_after_a_recorded_trunk_the_search_is_the_one_that_was_never_interrupted(controller: str, last: int) -> None:
    whole = toy(3, trunks=30, controller=controller)
    rest = toy(3, trunks=30, controller=controller, after=whole[last])
    assert rest == whole[last + 1 :]
    assert [trunk.theta.tolist() for trunk in rest] == [trunk.theta.tolist() for trunk in whole[last + 1 :]]
    assert [height(trunk.state) for trunk in rest] == [height(trunk.state) for trunk in whole[last + 1 :]]


def test_theta_stands_still_in_warm_up_and_after_learn_until() -> None:
    trunks = toy(trunks=20, warmup_trunks=5, learn_until=0.6)
    moved = [bool((now.theta != before.theta).any()) for before, now in pairwise(trunks)]
    assert not trunks[0].theta.any()
    assert moved == [5 <= index < 12 for index in range(1, 20)]


def test_a_share_of_the_trunks_is_that_many_whatever_floats_round_to() -> None:
    """0.55 * 100 is 55.00000000000001 in floating point."""
    assert settings(trunks=100, learn_until=0.55).last_learned == 55
    assert settings(trunks=7, learn_until=0.5).last_learned == 4


def test_what_is_learned_in_warm_up_moves_theta_right_after_it() -> None:
    after_warm_up = toy(controller="bandit", controller_lr=1.0, trunks=21, warmup_trunks=20)[-1]
    assert planted_mass([after_warm_up]) > 3


def test_leave_one_out_reward_by_hand() -> None:
    """w = 1, 2, 6: the means of the others are 4, 3.5, 1.5; the third copy contributes most."""
    copies = [start(1.0), start(2.0), start(6.0)]
    rewards, scores = leave_one_out(copies, height, sequential)
    assert (rewards.tolist(), scores.tolist()) == ([-4.0, -3.5, -1.5], [4.0, 3.5, 1.5])

    def by_copy(state: State, sample: int, trunk: int, copy: int) -> State:
        return start([1.0, 2.0, 6.0][copy])

    trunk = toy(train=by_copy, trunks=1, warmup_trunks=0, copies=3, reward="leave_one_out", broadcast="average")[0]
    assert trunk.rewards == (-4.0, -3.5, -1.5)
    assert (trunk.best, trunk.score) == (2, 3.0)


def test_leave_one_out_looks_at_the_metric_of_the_mean_not_at_the_mean_metric() -> None:
    """Val wants w = 0; copies at -1, +1 and 0: without either outlier the mean is off, without the third it is not."""
    copies = [start(-1.0), start(1.0), start(0.0)]
    _, scores = leave_one_out(copies, lambda state: -(height(state) ** 2), sequential)
    assert scores.tolist() == [-0.25, -0.25, 0.0]


def test_broadcasts_by_hand() -> None:
    copies = [start(0.0), None, start(4.0), start(8.0)]
    rewards = np.array([1.0, np.nan, 3.0, 2.0])
    assert height(broadcast(copies, rewards, "best")) == 4.0
    assert height(broadcast(copies, rewards, "average")) == 4.0


def test_averaging_takes_weights_momentum_and_buffers_and_leaves_integers() -> None:
    def state(value: float, count: int) -> State:
        return {
            "model.weight": torch.tensor([value, 2 * value]),
            "model.running_mean": torch.tensor(value),
            "model.num_batches_tracked": torch.tensor(count),
            "momentum.weight": torch.tensor([-value, 0.0]),
        }

    mean = mean_state([state(1.0, 5), state(2.0, 6), state(6.0, 7)])
    assert mean["model.weight"].tolist() == [3.0, 6.0]
    assert mean["momentum.weight"].tolist() == [-3.0, 0.0]
    assert mean["model.running_mean"].item() == 3.0
    assert (mean["model.num_batches_tracked"].item(), mean["model.weight"].dtype) == (5, torch.float32)


def test_the_mean_of_equal_copies_is_that_copy_to_the_last_bit() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mean_state([{"model.w": values}] * 7)["model.w"], values)


def lossy(state: State, sample: int, trunk: int, copy: int) -> State:
    """Copy 1 raises, copy 2 returns nan weights, copy 3 has finite weights that score nan; the rest climb."""
    if copy == 1:
        raise Diverged("the training loss is nan at step 3")
    if copy == 2:
        return start(math.nan)
    if copy == 3:
        return start(1e9)
    return Climb()(state, sample, trunk, copy)


def nan_above(limit: float) -> Callable[[State], float]:
    return lambda state: height(state) if height(state) < limit else math.nan


@pytest.mark.parametrize("reward", ["own", "leave_one_out"])
@pytest.mark.parametrize("rule", ["best", "average"])
def test_lost_copies_are_recorded_and_excluded(
    reward: Literal["own", "leave_one_out"], rule: Literal["best", "average"]
) -> None:
    trunks = list(
        search(
            Choice(theta=np.zeros(KINDS)), start(), play=partial(race_copies, train=lossy, score=nan_above(1e6)),
            score=nan_above(1e6),
            settings=settings(trunks=10, reward=reward, broadcast=rule), seed=0,
        )
    )  # fmt: skip
    for trunk in trunks:
        assert [math.isnan(value) for value in trunk.rewards] == [False, True, True, True, *[False] * 4]
        assert trunk.faults == (
            "", "the training loss is nan at step 3", "its weights are no longer finite",
            "its score on val is not finite", "", "", "", "",
        )  # fmt: skip
        assert trunk.best in (0, 4, 5, 6, 7)
        assert math.isfinite(trunk.score)
        assert np.isfinite(trunk.theta).all()
    assert trunks[-1].theta.any()


@dataclass(frozen=True)
class Deadly:
    """A `Parallel` in which copy 2's worker dies, where one function is called for all 8 copies."""

    function: Callable[..., Any]

    def __call__(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        results = sequential(function, arguments)
        if function is self.function and len(arguments) == 8:
            results[2] = WorkerDied()
        return results


@pytest.mark.parametrize("reward", ["own", "leave_one_out"])
@pytest.mark.parametrize("function", [attempt, height], ids=["in training", "in scoring"])
def test_a_copy_whose_worker_dies_loses_the_trunk_and_the_search_goes_on(
    function: Callable[..., Any], reward: Literal["own", "leave_one_out"]
) -> None:
    trunks = toy(parallel=Deadly(function), trunks=10, reward=reward)
    for trunk in trunks:
        assert [math.isnan(value) for value in trunk.rewards] == [copy == 2 for copy in range(8)]
        assert [why for why in trunk.faults if why] == ["its worker died twice"]
        assert trunk.faults[2]
    assert len(trunks) == 10
    assert trunks[-1].theta.any()


def test_a_death_in_scoring_and_a_copy_that_spoils_the_means_are_told_apart() -> None:
    """w = 1, 1e9 (too far), 2 (its worker dies), 6: what is left are the first and the last, each without the other."""

    def dies_at_two(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [WorkerDied() if height(state) == 2.0 else function(state) for (state,) in arguments]

    copies = [start(w) for w in (1.0, 1e9, 2.0, 6.0)]
    _, scores, faults = judge("leave_one_out", copies, nan_above(1e6), dies_at_two)
    assert scores.tolist() == pytest.approx([6.0, math.nan, math.nan, 1.0], nan_ok=True)
    assert faults == {1: "its score on val is not finite", 2: "its worker died twice"}


def test_when_the_worker_of_every_copy_dies_the_sentence_speaks_of_memory() -> None:
    def nobody_lives(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [WorkerDied() for _ in arguments]

    with pytest.raises(ValueError, match=r"all 8 copies .* \(its worker died twice\); .* lower parallel\.workers"):
        toy(parallel=nobody_lives)


def test_a_lone_survivor_goes_on_and_teaches_nothing() -> None:
    def one_lives(state: State, sample: int, trunk: int, copy: int) -> State:
        if copy != 5:
            raise Diverged("gone")
        return start(float(trunk))

    trunks = toy(train=one_lives, trunks=6)
    assert [trunk.best for trunk in trunks] == [5] * 6
    assert [trunk.score for trunk in trunks] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert not trunks[-1].theta.any()


def test_settings_under_which_theta_never_moves_are_refused() -> None:
    with pytest.raises(ValueError, match="the distribution would never move"):
        settings(trunks=20, warmup_trunks=10, learn_until=0.5)
    with pytest.raises(ValueError, match="the distribution would never move"):
        settings(trunks=1)
    settings(trunks=20, warmup_trunks=10, learn_until=0.5, controller="null")


def test_all_copies_lost_is_one_clear_sentence() -> None:
    def nobody_lives(state: State, sample: int, trunk: int, copy: int) -> State:
        raise Diverged("the training loss is nan at step 0")

    with pytest.raises(
        ValueError, match=r"all 8 copies were lost in trunk 0 \(the training loss is nan at step 0\); l"
    ):
        toy(train=nobody_lives)


def rising(state: State, sample: int | None, trunk: int, copy: int) -> State:
    """A trunk adds 1 whatever is tried."""
    return {"model.w": state["model.w"] + 1}


def gradient_of_kind(state: State, sample: int | None, trunk: int, copy: int) -> State:
    """The gradient of kind k points k steps round a circle in a plane; without a sample it is zero."""
    angle = 0.0 if sample is None else 2 * math.pi * (sample - PLANTED) / KINDS
    size = 0.0 if sample is None else 1.0 + sample
    return {"model.w": size * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)}


def target_along_first(size: float) -> TargetGradient:
    """The target of both halves, along the first axis."""
    up = {"model.w": torch.tensor([size, 0.0], dtype=torch.float64)}
    return TargetGradient(halves=(up, up))


def search_aligned(**changes: Any) -> list[Trunk[int]]:
    """Val rises along the first axis, where the planted kind points."""
    return search_with_target(3.0, **changes)


def search_with_target(size: float, **changes: Any) -> list[Trunk[int]]:
    """The target has this length along the first axis."""
    chosen = settings(trunks=4, reward="alignment", controller="bandit", controller_lr=2.0, warmup_trunks=0, **changes)
    origin = {"model.w": torch.zeros(2, dtype=torch.float64), "momentum.w": torch.zeros(2, dtype=torch.float64)}
    return list(
        search(
            Choice(theta=np.zeros(KINDS)),
            origin,
            play=partial(
                align_gradients,
                train=rising,
                target_gradient=lambda state, trunk: target_along_first(size),
                training_gradient=gradient_of_kind,
            ),
            score=lambda state: state["model.w"][0].item(),
            settings=chosen,
            seed=0,
        )
    )


def test_alignment_is_the_cosine_with_vals_slope_whatever_the_length_of_the_gradient() -> None:
    expected = [math.cos(2 * math.pi * (kind - PLANTED) / KINDS) for kind in range(KINDS)]
    trunks = search_aligned()
    assert all(np.allclose(trunk.rewards, expected) for trunk in trunks)
    assert all(trunk.best == PLANTED for trunk in trunks)
    assert planted_mass(trunks) > 2
    assert np.argmax(trunks[-1].theta) == PLANTED


def test_under_alignment_one_model_trains_and_no_sample_touches_it() -> None:
    assert [trunk.score for trunk in search_aligned()] == [1.0, 2.0, 3.0, 4.0]
    assert search_aligned(copies=2) == search_aligned(copies=8)


def test_a_sample_that_adds_nothing_has_alignment_zero() -> None:
    def flat(state: State, sample: int | None, trunk: int, copy: int) -> State:
        return {"model.w": torch.full((2,), float(sample == PLANTED), dtype=torch.float64)}

    rewards, _, faults = alignments(
        {"model.w": torch.zeros(2)},
        range(KINDS),
        0,
        training_gradient=flat,
        target_gradient=lambda *_: target_along_first(1.0),
        parallel=sequential,
    )
    assert rewards == pytest.approx([math.sqrt(0.5) if kind == PLANTED else 0.0 for kind in range(KINDS)])
    assert faults == {}


def test_a_gradient_that_is_not_finite_costs_the_sample_its_trunk_and_no_other() -> None:
    def broken(state: State, sample: int | None, trunk: int, copy: int) -> State:
        gradient = gradient_of_kind(state, sample, trunk, copy)
        return {"model.w": gradient["model.w"] * math.nan} if sample == 3 else gradient

    rewards, _, faults = alignments(
        {"model.w": torch.zeros(2)},
        range(KINDS),
        0,
        training_gradient=broken,
        target_gradient=lambda *_: target_along_first(1.0),
        parallel=sequential,
    )
    assert faults == {3: "its gradient is not finite"}
    assert np.flatnonzero(~np.isfinite(rewards)).tolist() == [3]


def test_inner_products_are_those_of_all_parameters_however_many_are_taken_at_a_time() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((5, 2 * BLOCK + 7)).astype(np.float32)
    gram = inner_products([rows[0], None, rows[1]], rows[2], [rows[3], rows[4]])
    every = np.stack([rows[0] - rows[2].astype(np.float64), rows[1] - rows[2].astype(np.float64), rows[3], rows[4]])
    kept = [0, 2, 3, 4]
    assert gram[np.ix_(kept, kept)] == pytest.approx(every @ every.T)
    assert np.isnan(gram[1]).all()
    assert np.isnan(gram[:, 1]).all()


def test_where_the_target_is_not_finite_no_sample_can_be_blamed_and_the_reason_is_said() -> None:
    with pytest.raises(ValueError, match="the gradient on val or on plain training images is not finite"):
        list(search_with_target(math.nan))


def test_where_the_target_is_zero_every_reward_is_zero_and_theta_stays() -> None:
    for trunk in search_with_target(0.0):
        assert set(trunk.rewards) == {0.0}
        assert not trunk.theta.any()
