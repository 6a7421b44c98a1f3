"""The third instance of the engine: multipliers planted in a toy are found, and a rate set far too low is raised."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from components.online.engine import Trunk, numpy_rng, search
from components.online.gaussian import Gaussian, Sample
from components.optimisation.search import MultiplierWorld
from components.settings.online import Online
from components.settings.recipe import Recipe
from components.training.crop_flip import compose
from components.training.loop import State, initial_state
from tests.components.test_augmentation_search import bars, small

PLANTED = (math.log(3.0), math.log(0.5))


def settings(**changes: Any) -> Online:
    return Online(**{"trunks": 60, "copies": 8, "images": 96, "warmup_trunks": 0, "learn_until": 1.0, **changes})


# --- a planted optimum, no training


def planted_distance(seed: int, **changes: Any) -> float:
    """How far from the planted multipliers the search ends; a trunk is worth how near a sample is, and luck."""

    def train(state: State, sample: Sample, trunk: int, copy: int) -> State:
        luck = 0.2 * numpy_rng(seed, trunk, copy, 9).standard_normal()
        worth = luck - float(np.square(np.subtract(sample, PLANTED)).sum())
        return {"model.worth": torch.tensor(worth, dtype=torch.float64)}

    *_, last = search(
        Gaussian(theta=np.zeros(2), sigma=0.3),
        {"model.worth": torch.zeros((), dtype=torch.float64)},
        train=train,
        score=lambda state: state["model.worth"].item(),
        settings=settings(controller_lr=0.05, **changes),
        seed=seed,
    )
    return float(np.linalg.norm(last.theta - PLANTED))


@pytest.mark.parametrize(("reward", "broadcast"), [("own", "best"), ("leave_one_out", "average")])
def test_finds_planted_multipliers_and_the_null_controller_does_not(reward: str, broadcast: str) -> None:
    rules = {"reward": reward, "broadcast": broadcast}
    start = float(np.linalg.norm(PLANTED))
    assert max(planted_distance(seed, **rules) for seed in range(4)) < 0.3 * start
    assert planted_distance(0, controller="null", **rules) == pytest.approx(start)


# --- a small network


LOW = Recipe(batch_size=16, learning_rate=0.0005, warmup=0.0)
"""A hundredth of what this network likes."""


def world(seed: int = 0, **changes: Any) -> MultiplierWorld:
    return MultiplierWorld(
        make=small,
        train=bars(160, 0),
        val=bars(160, 1),
        augment=compose(),
        settings=settings(**{"trunks": 24, "learn_until": 0.8, **changes}),
        recipe=LOW,
        seed=seed,
    )


@cache
def last_trunk(seed: int, controller: str) -> Trunk[Sample]:
    *_, last = world(seed, controller=controller, reward="own", broadcast="best").search()
    return last


def test_a_rate_set_far_too_low_is_raised_and_the_network_is_the_better_for_it() -> None:
    for seed in range(2):
        learned, null = last_trunk(seed, "reinforce"), last_trunk(seed, "null")
        assert world().multiplied(learned.theta).learning_rate > 10 * LOW.learning_rate
        assert null.theta.tolist() == [0.0, 0.0]
        assert learned.score > null.score


@pytest.mark.parametrize("last", [0, 2])
def test_a_search_goes_on_after_any_trunk_to_the_same_records_and_weights(last: int) -> None:
    chosen = world(trunks=4)
    whole = list(chosen.search())
    rest = list(chosen.search(after=whole[last]))
    assert rest == whole[last + 1 :]
    for ours, theirs in zip(rest, whole[last + 1 :], strict=True):
        assert all(torch.equal(ours.state[key], theirs.state[key]) for key in theirs.state)


def test_a_reward_may_be_the_slope_along_a_copys_step() -> None:
    """Steps from the copies' mean cancel out, and so do such rewards."""
    rewards = np.array(next(world(reward="first_order").search()).rewards)
    assert np.abs(rewards).min() > 0
    assert abs(rewards.sum()) < 1e-4 * np.abs(rewards).sum()


def test_a_sample_is_what_its_copy_trains_with() -> None:
    """Learning rate and decay multiplied by hand train to the same weights; nothing else of the recipe changes."""
    chosen, state = world(), initial_state(small())
    recipe = replace(LOW, learning_rate=LOW.learning_rate * 2, weight_decay=LOW.weight_decay / 4)
    ours = chosen.train_copy(state, (math.log(2), -math.log(4)), 3, 1)
    by_hand = replace(chosen, recipe=recipe).train_copy(state, (0.0, 0.0), 3, 1)
    untouched = chosen.train_copy(state, (0.0, 0.0), 3, 1)
    weight = "model.classifier.weight"
    assert torch.allclose(ours[weight], by_hand[weight], rtol=1e-6)
    assert not torch.allclose(ours[weight], untouched[weight], rtol=1e-6)
    assert chosen.multiplied((0.0, 0.0)) == LOW


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "positive"),
        ({"settings": settings(copies=3)}, "even"),
        (
            {"settings": settings(reward="linear_probe")},
            "reward is linear_probe, but a multiplier .*; use leave_one_out",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(world(), **changes)
