"""The augmentation search on a planted effect, and on a small network and images."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from components.augmentation.distribution import first_distribution, policy_of
from components.augmentation.operations import Element
from components.augmentation.policy import Pairs
from components.augmentation.search import PairsWorld, search_augmentation
from components.data.store import Split
from components.online.engine import Trunk, race_copies, search
from components.online.rewards import TargetGradient, flat
from components.settings.augmentation import Augmentation
from components.settings.online import Online
from components.settings.recipe import Recipe
from components.streams import stream
from components.training.loop import Diverged, State, initial_state

RECIPE = Recipe(batch_size=16, learning_rate=0.05)


def settings(**changes: Any) -> Augmentation:
    online = {key: changes.pop(key) for key in list(changes) if key in Online.__annotations__}
    return Augmentation(**{"online": Online(**{"trunks": 4, "copies": 4, "images": 64, **online}), **changes})


# --- a planted effect, no training


def planted(elements: tuple[Element, ...], seed: int) -> Callable[[State, Pairs, int, int], State]:
    """A trunk is worth the share of translations in the copy's pairs, plus noise of the same size."""

    def train(state: State, sample: Pairs, trunk: int, copy: int) -> State:
        worth = np.mean([elements[k].operation.startswith("Translate") for pair in sample for k in pair])
        noise = 0.25 * stream(seed, "copy training", trunk, copy).standard_normal()
        return {"model.w": state["model.w"] + float(worth) + noise}

    return train


def model_weight(state: State) -> float:
    return state["model.w"].item()


def translation_mass(chosen: Augmentation, seed: int) -> float:
    """Share of translations in the distribution found, relative to uniform."""
    distribution = first_distribution(chosen)
    trunks = search(
        distribution,
        {"model.w": torch.zeros((), dtype=torch.float64)},
        play=partial(race_copies, train=planted(distribution.elements, seed), score=model_weight),
        score=model_weight,
        settings=chosen.online,
        seed=seed,
    )
    *_, last = trunks
    shares = policy_of(distribution.at(last.theta)).operation_shares()
    before = policy_of(distribution).operation_shares()
    return sum(
        shares[name] / sum(before[n] for n in ("TranslateX", "TranslateY")) for name in ("TranslateX", "TranslateY")
    )


def test_finds_planted_elements_and_the_null_controller_does_not() -> None:
    learning = settings(trunks=60, copies=8)
    null = replace(learning, online=replace(learning.online, controller="null"))
    masses = [translation_mass(learning, seed) for seed in range(4)]
    assert np.mean(masses) > 2.5
    assert min(masses) > 1.1
    assert translation_mass(null, 0) == pytest.approx(1)


# --- a small network


class Small(nn.Module):
    """One convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4, 2, bias=False)

    def features(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return F.adaptive_avg_pool2d(self.body(images.float() / 255), 1).flatten(1)

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classifier(self.features(images))


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Small()


def bars(count: int, seed: int) -> Split:
    """Class 0: a bright column, class 1: a bright row, on noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, 12, 12, 1), dtype=np.uint8)
    labels = rng.integers(0, 2, count)
    for image, label in zip(images, labels, strict=True):
        at = rng.integers(2, 10)
        image[(slice(None), at) if label == 0 else at] = 255
    return Split(images=images, labels=labels.astype(np.int64))


def searched(
    seed: int = 0, val: Split | None = None, after: Trunk[Pairs] | None = None, **changes: Any
) -> list[Trunk[Pairs]]:
    train, chosen = bars(160, 0), settings(**changes)
    return list(
        search_augmentation(small, train, val or bars(80, 1), settings=chosen, recipe=RECIPE, seed=seed, after=after)
    )


def world(broadcast: str = "average", val: Split | None = None, **changes: Any) -> PairsWorld:
    chosen = settings(broadcast=broadcast, **changes)
    elements = first_distribution(chosen).elements
    val = val or bars(80, 1)
    return PairsWorld(
        make=small, train=bars(160, 0), val=val, elements=elements, recipe=RECIPE, settings=chosen, seed=0
    )


def same(first: State, second: State) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("reward", "broadcast"), [("own", "best"), ("leave_one_out", "average")])
def test_every_rule_trains_the_network_while_it_searches(reward: str, broadcast: str) -> None:
    trunks = searched(reward=reward, broadcast=broadcast, trunks=5, images=128)
    assert trunks[-1].score > trunks[0].score
    assert trunks[-1].score > -0.6  # a coin has -0.69
    assert trunks[-1].theta.any()


def test_same_seed_same_records_and_weights() -> None:
    first, second, other = searched(0), searched(0), searched(1)
    assert first == second
    assert same(first[-1].state, second[-1].state)
    assert first != other


@pytest.mark.parametrize(
    "rules",
    [
        {"reward": "own", "broadcast": "best"},
        {"reward": "leave_one_out", "broadcast": "average"},
        {"reward": "alignment", "controller": "matching", "controller_lr": 1.0},
    ],
)
def test_a_search_goes_on_after_any_trunk_to_the_same_records_and_weights(rules: dict[str, Any]) -> None:
    """Momentum, batch-norm statistics, the controller's memory and the learning rate are all where they were."""
    whole = searched(**rules)
    for last in (0, 2, 3):
        rest = searched(**rules, after=whole[last])
        assert rest == whole[last + 1 :]
        assert [trunk.theta.tolist() for trunk in rest] == [trunk.theta.tolist() for trunk in whole[last + 1 :]]
        assert all(same(ours.state, theirs.state) for ours, theirs in zip(rest, whole[last + 1 :], strict=True))


def test_val_never_reaches_the_weights_or_samples_when_nothing_is_selected() -> None:
    """Null controller and plain average: other val images, same training to the last bit."""
    ours = searched(controller="null")
    theirs = searched(controller="null", val=bars(80, 2))
    assert [trunk.samples for trunk in ours] == [trunk.samples for trunk in theirs]
    assert same(ours[-1].state, theirs[-1].state)
    assert ours[-1].score != theirs[-1].score


def test_copies_share_batches_when_the_best_goes_on_and_have_their_own_when_averaged() -> None:
    state, sample = initial_state(small()), ((3, 7),)
    best, average = world("best").train_copy, world("average").train_copy
    assert same(best(state, sample, 0, 0), best(state, sample, 0, 1))
    assert not same(best(state, sample, 0, 0), best(state, sample, 1, 0))
    assert not same(average(state, sample, 0, 0), average(state, sample, 0, 1))


def test_the_learning_rate_follows_the_whole_search_not_the_trunk() -> None:
    """After its peak the rate falls towards 0, so the last trunk moves the weights less than an early one."""
    state, train = initial_state(small()), world("best", trunks=20).train_copy

    def moved(trunk: int) -> float:
        after = train(state, ((0, 0),), trunk, 0)
        return (after["model.body.0.weight"] - state["model.body.0.weight"]).norm().item()

    assert moved(19) < 0.1 * moved(3)


def test_the_sampled_pairs_are_what_the_copy_trains_with() -> None:
    state, here = initial_state(small()), world("best")
    names = [str(element) for element in here.elements]

    def trained_with(name: str) -> State:
        return here.train_copy(state, ((names.index(name), names.index(name)),), 0, 0)

    assert same(trained_with("Identity"), trained_with("Invert"))  # twice inverted is as before
    assert not same(trained_with("Identity"), trained_with("Rotate 30"))


def test_a_score_reads_only_the_images_it_is_given() -> None:
    val, state = bars(80, 1), initial_state(small())
    first = Split(images=val.images[:30], labels=val.labels[:30])
    part = world(val=val, score_images=30).score(state)
    assert part == world(val=first).score(state)
    assert part != world(val=val).score(state)


def test_a_rate_that_makes_every_copy_diverge_is_one_sentence() -> None:
    hot = replace(RECIPE, learning_rate=1e30, warmup=0.0)
    with pytest.raises(ValueError, match=r"all 4 copies were lost in trunk 0 .* lower train\.recipe\.learning_rate"):
        list(search_augmentation(small, bars(160, 0), bars(80, 1), settings=settings(), recipe=hot, seed=0))


def test_scratch_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    searched(trunks=1, warmup_trunks=0)
    assert torch.get_num_threads() == before


def test_a_head_start_is_one_training_that_all_copies_go_on_from() -> None:
    """Its images, the schedule's length, and resuming: a search with a head start goes on after a trunk as it would."""
    ahead = searched(head_start=160, trunks=3)
    assert ahead[0].score > searched(trunks=3)[0].score
    chosen = settings(head_start=160, trunks=3)
    resumed = search_augmentation(
        small, bars(160, 0), bars(80, 1), settings=chosen, recipe=RECIPE, seed=0, after=ahead[0]
    )
    for one, other in zip(ahead[1:], resumed, strict=True):
        assert one == other
        assert same(one.state, other.state)


ALIGNED = {
    "reward": "alignment",
    "controller": "matching",
    "controller_lr": 1.0,
    "warmup_trunks": 0,
    "learn_until": 1.0,
}


def test_alignment_finds_what_was_done_to_val() -> None:
    """Val's bars are inverted: training images are dark with a bright bar, val's bright with a dark one."""
    val = bars(80, 1)
    inverted = Split(images=255 - val.images, labels=val.labels)
    trunks = searched(val=inverted, head_start=1024, images=256, probe_images=128, **ALIGNED)
    policy = policy_of(first_distribution(settings()).at(trunks[-1].theta))
    shares = policy.operation_shares()
    assert shares["Invert"] > 4 / len(shares)
    assert np.mean([trunk.rewards[policy.elements.index(Element("Invert"))] for trunk in trunks]) > 0.5


def agreement(target: TargetGradient) -> float:
    """Cosine of the target gradients of the halves of val."""
    first, second = (flat(half) for half in target.halves)
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def test_halves_of_val_agree_where_val_is_another_distribution_alone() -> None:
    here = replace(world(head_start=1024, **ALIGNED), train=bars(400, 0))
    state = here.warm_up()
    alike = [replace(here, val=bars(200, seed)).target_gradient(state, seed) for seed in range(1, 7)]
    inverted = Split(images=255 - here.val.images, labels=here.val.labels)
    moved = replace(here, val=inverted).target_gradient(state, 0)
    assert np.mean([agreement(target) for target in alike]) < 0.3
    assert agreement(moved) > 0.7
    assert moved.train_loss < 0.7 * moved.val_loss
    assert all(target.train_loss > 0.8 * target.val_loss for target in alike)


def test_one_image_of_val_has_no_halves_and_the_search_says_so() -> None:
    here = world(**ALIGNED)
    here = replace(here, val=here.val.at(slice(1)))
    with pytest.raises(ValueError, match="val has one image; reward alignment compares two halves"):
        here.target_gradient(here.warm_up(), 0)


def test_the_target_uses_training_images_that_no_training_gradient_of_the_trunk_uses() -> None:
    """Of 160 images a training gradient uses 40, and the target uses 80 with 80 of val: the others do not matter."""
    here = world(probe_images=40, **ALIGNED)
    state, (order, _) = here.warm_up(), here.order(0)
    images = here.train.images.copy()
    images[order[:80]] = 0
    other = replace(here, train=Split(images=images, labels=here.train.labels))
    one, two = here.target_gradient(state, 0), other.target_gradient(state, 0)
    assert all(same(left, right) for left, right in zip(one.halves, two.halves, strict=True))
    assert not same(here.training_gradient(state, None, 0, 0), other.training_gradient(state, None, 0, 0))


def test_alignment_leaves_the_network_as_training_without_augmentation_would() -> None:
    ours, theirs = searched(**ALIGNED), searched(val=bars(80, 2), **ALIGNED)
    assert same(ours[-1].state, theirs[-1].state)
    assert ours[-1].rewards != theirs[-1].rewards
    here = world(**ALIGNED)
    state = here.warm_up()
    for trunk in range(here.settings.online.trunks):
        state = here.train_copy(state, None, trunk, 0)
    assert same(ours[-1].state, state)


def test_identity_adds_nothing_and_has_reward_0() -> None:
    elements = first_distribution(settings()).elements
    identity = [element.operation for element in elements].index("Identity")
    assert all(trunk.rewards[identity] == 0 for trunk in searched(**ALIGNED))


def test_a_sample_whose_gradient_fails_is_recorded_and_the_search_goes_on() -> None:
    class Failing(PairsWorld):
        def training_gradient(self, state: State, sample: Any, trunk: int, copy: int) -> State:
            if copy == 5 and sample is not None:
                raise Diverged("the loss is nan")
            return super().training_gradient(state, sample, trunk, copy)

    here = world(trunks=3, **ALIGNED)
    failing = Failing(**{field.name: getattr(here, field.name) for field in fields(here)})
    trunks = list(failing.search_from(first_distribution(here.settings)))
    assert [trunk.faults[5] for trunk in trunks] == ["the loss is nan"] * 3
    assert all(np.isfinite(np.delete(trunk.rewards, 5)).all() for trunk in trunks)
    assert np.isfinite(trunks[-1].theta).all()


def test_the_loss_searchs_reward_is_refused() -> None:
    class Other(PairsWorld):
        @property
        def online(self) -> Online:
            return Online(trunks=4, images=8, reward="linear_probe", controller="bandit")

    with pytest.raises(ValueError, match="reward linear_probe is the loss search's; use alignment or leave_one_out"):
        Other(**vars(world())).play()
