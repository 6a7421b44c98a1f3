"""What the shift benchmark says of equal compute, of its nulls and of its tables is so."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from components.augmentation.search import search_augmentation
from components.online import world as worlds
from components.online.engine import Trunk
from components.training.parallel import sequential
from tests.benchmarks import augmentation_shift as benchmark
from tests.benchmarks import shift
from tests.benchmarks.shift import World, make_of, train_network, world_of

SMALL = {
    "aligned": {"head_start": 256, "trunks": 2, "images": 128, "probe_images": 32},
    "copies": {"trunks": 2, "images": 128},
    "compute": 9000,
}


def small(task: str = "translated") -> World:
    here = world_of("digits", task, 3)
    return replace(here, data=replace(here.data, **SMALL))


def searched(here: World, name: str, parallel: Any = sequential) -> list[Trunk[Any]]:
    settings = benchmark.settings_of(here, name)
    search = search_augmentation(
        make_of(here), here.train, here.val, settings=settings, recipe=here.data.recipe, seed=here.seed,
        distribution=benchmark.uniform(here, name), parallel=parallel,
    )  # fmt: skip
    return list(search)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["ohl", "copies", "paper"])
def test_a_search_and_the_training_after_it_spend_c(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where images are trained on, differentiated and scored, against what `spent_images` says."""
    spent = {"trained": 0, "differentiated": 0, "scored": 0}
    train, negative_gradient, predict = shift.train_steps, worlds.negative_gradient, worlds.predict

    def counting_steps(*arguments: Any, batches: Any, **more: Any) -> Any:
        batches = list(batches)
        spent["trained"] += sum(len(batch) for batch in batches)
        return train(*arguments, batches=batches, **more)

    def counting_descent(network: Any, state: Any, images: Any, *more: Any, **own: Any) -> Any:
        spent["differentiated"] += len(images)
        return negative_gradient(network, state, images, *more, **own)

    def counting_predict(network: Any, images: Any, **more: Any) -> Any:
        spent["scored"] += len(images)
        return predict(network, images, **more)

    for module, function, counting in (
        (worlds, "train_steps", counting_steps), (worlds, "negative_gradient", counting_descent),
        (worlds, "predict", counting_predict), (shift, "train_steps", counting_steps),
    ):  # fmt: skip
        monkeypatch.setattr(module, function, counting)
    here = small()
    searched(here, name)
    said = benchmark.spent_images(here, benchmark.settings_of(here, name).online)
    assert said == pytest.approx(spent["trained"] + spent["differentiated"] + spent["scored"] / 3, abs=10)
    train_network(here, here.both, benchmark.everything(), here.data.compute - said)
    total = spent["trained"] + spent["differentiated"] + spent["scored"] / 3
    assert here.data.compute - 128 < total <= here.data.compute + 10


def test_shuffled_trains_the_same_network_and_hands_out_the_same_rewards_to_others() -> None:
    here = small()
    ours, theirs = searched(here, "ohl"), searched(here, "shuffled", benchmark.misdirected(here))
    assert same(ours[-1].state, theirs[-1].state)
    for one, other in zip(ours, theirs, strict=True):
        assert sorted(one.rewards) == pytest.approx(sorted(other.rewards))
        assert one.rewards != other.rewards
    identity = [str(element) for element in here.task.elements].index("Identity")
    assert all(trunk.rewards[identity] == 0 for trunk in theirs)


@pytest.mark.parametrize("name", ["ohl", "copies", "paper"])
def test_the_rewards_as_recorded_replay_to_the_theta_that_was_recorded(name: str) -> None:
    here = small()
    settings, trunks = benchmark.settings_of(here, name), searched(here, name)
    begin = benchmark.uniform(here, name)
    assert benchmark.replay(begin, trunks, settings, benchmark.recorded(trunks)).theta == pytest.approx(
        trunks[-1].theta
    )
    chance = benchmark.replay(begin, trunks, settings, benchmark.permuted(trunks, 0))
    assert not np.allclose(chance.theta, trunks[-1].theta)


def test_where_val_asks_at_random_elements_are_rewarded_as_alike_as_their_gradients_are() -> None:
    trunks = searched(small(), "ohl")
    moving = np.flatnonzero(trunks[0].rewards)
    grams = [
        trunk.gradient_gram.products[np.ix_(moving, moving)] for trunk in trunks if trunk.gradient_gram is not None
    ]
    alike = np.mean([gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram))) for gram in grams], axis=0)
    seeds = range(400)
    drawn = np.stack([benchmark.at_random(trunks, seed)[0][moving] for seed in seeds])
    mixed = np.stack([benchmark.permuted(trunks, seed)[0][moving] for seed in seeds])
    pairs = np.triu_indices(len(moving), 1)
    found, lost = (np.corrcoef(rewards.T)[pairs] for rewards in (drawn, mixed))
    assert np.corrcoef(found, alike[pairs])[0, 1] > 0.9
    assert abs(np.corrcoef(lost, alike[pairs])[0, 1]) < 0.3
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(np.linalg.norm(trunks[0].rewards))


def test_training_never_sees_the_test_images() -> None:
    here = small()
    blank = replace(here.test, images=np.zeros_like(here.test.images))
    for world in (here, replace(here, test=blank)):
        trunks = searched(world, "ohl")
        state = train_network(world, world.both, benchmark.everything(), 1000)
        if world is here:
            first = trunks[-1].state, state
    assert same(first[0], trunks[-1].state)
    assert same(first[1], state)


def test_worlds_of_one_seed_differ_in_the_moved_images_alone() -> None:
    moved, plain = world_of("digits", "translated", 3), world_of("digits", "none", 3)
    assert np.array_equal(moved.train.images, plain.train.images)
    assert np.array_equal(moved.test.labels, plain.test.labels)
    assert not np.array_equal(moved.val.images, plain.val.images)
    assert len(np.unique(np.concatenate([plain.both.images, plain.test.images]).reshape(1797, -1), axis=0)) > 1790


def test_the_mass_of_a_uniform_distribution_is_1_and_ranks_count_who_earned_less() -> None:
    here = small()
    begin, rows = benchmark.uniform(here, "ohl"), benchmark.planted_rows(here)
    assert benchmark.mass(begin, rows) == pytest.approx(1.0)
    trunk = searched(here, "ohl")[0]
    rewards = np.zeros(len(trunk.rewards))
    rewards[rows] = 1.0
    assert benchmark.rank([replace(trunk, rewards=tuple(rewards.tolist()))], rows) == 1.0


def test_a_lead_is_the_mean_of_the_differences_within_seeds() -> None:
    assert benchmark.lead([2.0, 4.0, 9.0], [1.0, 2.0, 6.0]) == "+2.0 [-0.5, +4.5]"  # t of 2 degrees 4.30
    five = [1.0, 2.0, 3.0, 4.0, 5.0]  # deviation 1.58, error 0.71, t of 4 degrees 2.78
    assert benchmark.lead(five, [0.0] * 5) == "+3.0 [+1.0, +5.0]"
    assert benchmark.lead([], [1.0]) == ""
