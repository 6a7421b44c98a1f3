"""Training, searching and augmenting give the same bytes on other devices as on the CPU, and stay there."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.architecture.supernet import SharedWeights, build_supernet
from components.augmentation.distribution import first_distribution, policy_of
from components.augmentation.policy import AugmentPairs
from components.augmentation.search import search_augmentation
from components.loss.search import LossWorld
from components.online.averaging import mean_state
from components.online.engine import Trunk
from components.online.world import Treatment, score_state, train_trunk
from components.settings.augmentation import Augmentation
from components.settings.loss import Loss
from components.settings.online import Online
from components.settings.recipe import Recipe
from components.settings.train import Train
from components.training.crop_flip import base_augment, compose
from components.training.devices import CPU, Devices
from components.training.fit import fit
from components.training.inference import predict, split_tensors
from components.training.loop import State, cross_entropy, initial_state, train_steps
from tests.components import test_architecture_supernet as supernets
from tests.components.test_augmentation_search import bars, small, world
from tests.elsewhere import There, elsewhere

RECIPE = Recipe(batch_size=16, learning_rate=0.05, crop=2, flip=True)
ONLINE = Online(trunks=4, copies=4, images=64)


def network_on(device: torch.device | str) -> nn.Module:
    return small().to(device)


def policy() -> AugmentPairs:
    """Every element, so every kernel."""
    return policy_of(first_distribution(Augmentation(online=ONLINE))).augment()


def trained(device: torch.device | str, state: State | None = None, trunk: int = 1) -> State:
    network = network_on(device)
    return train_trunk(
        network,
        state or initial_state(network),
        bars(160, 0),
        Treatment(augment=compose(base_augment(RECIPE), policy()), criterion=cross_entropy(0.1), recipe=RECIPE),
        settings=ONLINE,
        seed=0,
        trunk=trunk,
        copy=2,
    )


def same(ours: State, theirs: State) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key].cpu(), theirs[key].cpu()) for key in ours)


def all_there(state: State) -> bool:
    return all(isinstance(value, There) for value in state.values())


def test_the_second_device_refuses_what_a_real_one_refuses() -> None:
    with elsewhere() as device:
        numbers = torch.arange(3, device=device)
        assert torch.tensor([4, 5], device=device).cpu().tolist() == [4, 5]
        assert (numbers + torch.tensor(1)).sum().item() == 6
        assert numbers[torch.tensor([2, 0])].cpu().tolist() == [2, 0]
        with pytest.raises(RuntimeError, match="two devices"):
            numbers + torch.arange(3)
        with pytest.raises(RuntimeError, match="two devices"):
            torch.arange(3) + numbers
        with pytest.raises(RuntimeError, match="two devices"):
            torch.arange(3)[numbers]
        third = torch.device("meta", 1)
        assert torch.zeros(3, device=third).add(1).device == numbers.to(third).device == third
        with pytest.raises(RuntimeError, match="two devices"):
            numbers + numbers.to(third)


def test_a_trunk_trains_to_the_same_bytes_and_its_state_stays_with_the_network() -> None:
    with elsewhere() as device:
        there = trained(device)
        assert all_there(there)
        assert same(there, trained("cpu"))


def test_a_state_from_one_device_goes_on_on_the_other() -> None:
    """A checkpoint read on the CPU resumes anywhere."""
    first = trained("cpu", trunk=0)
    with elsewhere() as device:
        there = trained(device, first)
        assert all_there(there)
        assert same(there, trained("cpu", first))
        assert same(trained("cpu", there, trunk=2), trained("cpu", trained("cpu", first), trunk=2))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_images_left_on_the_cpu_are_brought_to_the_network(momentum: float) -> None:
    images, labels = split_tensors(bars(64, 0))
    recipe = replace(RECIPE, momentum=momentum)

    def steps(device: torch.device | str, images: Tensor, labels: Tensor) -> State:
        return train_steps(
            network_on(device),
            initial_state(small()),
            images,
            labels,
            batches=[torch.arange(16), torch.arange(30, 46)],
            rate=lambda step: 0.1,
            first_step=0,
            augment=base_augment(recipe),
            criterion=cross_entropy(),
            recipe=recipe,
            rng=torch.Generator().manual_seed(0),
        )

    here = steps("cpu", images, labels)
    with elsewhere() as device:
        left, brought = steps(device, images, labels), steps(device, images.to(device), labels.to(device))
        assert all_there(left)
        assert all_there(brought)
        assert same(left, here)
        assert same(brought, here)


def test_fit_keeps_its_average_there() -> None:
    images, labels = split_tensors(bars(64, 0))
    settings = Train(epochs=2, ema=0.9, recipe=RECIPE)

    def last(device: torch.device | str) -> State:
        *_, epoch = fit(
            network_on(device), images, labels, settings=settings, augment=base_augment(RECIPE),
            criterion=cross_entropy(), seed=0,
        )  # fmt: skip
        return epoch.state

    with elsewhere() as device:
        there = last(device)
        assert all_there(there)
        assert same(there, last("cpu"))


@pytest.mark.parametrize("metric", ["accuracy", "log_likelihood"])
def test_a_score_is_the_same_number(metric: str) -> None:
    settings, state, val = replace(ONLINE, metric=metric), trained("cpu"), bars(100, 1)
    with elsewhere() as device:
        assert score_state(network_on(device), state, val, settings) == score_state(small(), state, val, settings)


def test_logits_stay_with_the_network() -> None:
    images, _ = split_tensors(bars(20, 1))
    with elsewhere() as device:
        logits = predict(network_on(device), images, batch_size=8)
        assert isinstance(logits, There)
        assert torch.equal(logits.cpu(), predict(small(), images, batch_size=8))


def test_states_of_several_devices_meet_on_the_first_ones() -> None:
    first, second = trained("cpu", trunk=0), trained("cpu", trunk=1)
    with elsewhere() as device:
        moved = {key: value.to(device) for key, value in first.items()}
        assert same(mean_state([moved, second]), mean_state([first, second]))
        assert all_there(mean_state([moved, second]))
        assert not any(isinstance(value, There) for value in mean_state([second, moved]).values())


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kernel_runs_there_and_the_generator_stays_on_the_cpu(channels: int) -> None:
    images = torch.randint(
        0, 256, (600, channels, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    here, there = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    with elsewhere() as device:
        augmented = policy()(images.to(device), there)
        assert isinstance(augmented, There)
        assert torch.equal(augmented.cpu(), policy()(images, here))
        assert torch.equal(torch.rand(1, generator=here), torch.rand(1, generator=there))


# --- searches, on the CPU and on two other devices

TWO = (torch.device("meta"), torch.device("meta", 1))
SHORT = Online(trunks=3, copies=4, images=32, warmup_trunks=0)


def augmentation_search(devices: Devices, online: Online, after: Any = None) -> list[Trunk[Any]]:
    settings = Augmentation(online=online)
    trunks = search_augmentation(
        small, bars(160, 0), bars(80, 1), settings=settings, recipe=RECIPE, seed=0, devices=devices, after=after
    )
    return list(trunks)


def loss_world(devices: Devices, online: Online) -> LossWorld:
    return LossWorld(
        make=small, train=bars(160, 0), val=bars(80, 1), augment=compose(), settings=Loss(knots=4, online=online),
        recipe=RECIPE, seed=0, devices=devices,
    )  # fmt: skip


def loss_search(devices: Devices, online: Online, after: Any = None) -> list[Trunk[Any]]:
    return list(loss_world(devices, online).search(after=after))


Searching = Callable[..., list[Trunk[Any]]]
SEARCHES: list[Searching] = [augmentation_search, loss_search]


def on_first(trunk: Trunk[Any]) -> bool:
    return {value.device for value in trunk.state.values()} == {TWO[0]}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(("reward", "broadcast"), [("leave_one_out", "average"), ("own", "best")])
def test_a_search_leaves_the_same_records_and_weights_and_these_on_the_first_device(
    search: Searching, reward: Any, broadcast: Any
) -> None:
    online = replace(SHORT, reward=reward, broadcast=broadcast)
    here = search(CPU, online)
    with elsewhere():
        there = search(TWO, online)
        assert there == here
        assert all(same(ours.state, theirs.state) for ours, theirs in zip(there, here, strict=True))
        assert all(on_first(trunk) for trunk in there)


GRADIENTS = replace(SHORT, trunks=1, reward="alignment", probe_images=16, controller="matching", controller_lr=1.0)
PROBES = replace(SHORT, copies=12, reward="linear_probe", probe_images=64, controller="bandit")


@pytest.mark.parametrize(("search", "online"), [(augmentation_search, GRADIENTS), (loss_search, PROBES)])
def test_a_search_of_one_model_leaves_the_same_records_on_two_devices(search: Searching, online: Online) -> None:
    here = search(CPU, online)
    with elsewhere():
        there = search(TWO, online)
        assert there == here
        assert all(same(ours.state, theirs.state) for ours, theirs in zip(there, here, strict=True))
        assert all(on_first(trunk) for trunk in there)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_read_on_the_cpu_goes_on_on_the_first_device(search: Searching) -> None:
    here = search(CPU, SHORT)
    with elsewhere():
        rest = search(TWO, SHORT, after=here[1])
        assert rest == here[2:]
        assert on_first(rest[0])
        assert same(rest[0].state, here[2].state)


def test_the_index_of_a_copy_says_where_it_trains() -> None:
    state, sample = initial_state(small()), ((3, 7),)
    augmenting, losing = replace(world(), devices=TWO), loss_world(TWO, SHORT)
    with elsewhere():
        for there, drawn in ((augmenting, sample), (losing, (0.5,) * 8)):
            trained = [there.train_copy(state, drawn, 0, copy) for copy in range(3)]
            assert [copy["model.classifier.weight"].device for copy in trained] == [TWO[0], TWO[1], TWO[0]]


def test_a_found_loss_is_the_same() -> None:
    steep = np.repeat([0.0, 1.0, 0.0], [1, 3, 4])  # t twice as steep: a larger gradient, so a scale below 1
    states = [initial_state(small())]
    here = loss_world(CPU, SHORT).found(steep, states)
    with elsewhere():
        assert loss_world(TWO, SHORT).found(steep, states).to_json() == here.to_json()
    assert here.scale < 0.95


def test_a_supernet_trains_and_scores_there() -> None:
    def shared(device: torch.device) -> SharedWeights:
        supernet = build_supernet(supernets.SPACE, supernets.MEAN, supernets.STD).to(device)
        return SharedWeights(
            supernet, supernets.settings(), supernets.RECIPE, supernets.digits(0, 600), supernets.digits(600, 900), 0
        )

    def results(weights: SharedWeights) -> tuple[State, list[float]]:
        weights.train_stage(0, ((),))
        scores = [weights.score(one, stage) for one in (supernets.A, supernets.B) for stage in (1, 3)]
        return weights.supernet.standalone(supernets.A), scores

    here, scores = results(shared(CPU[0]))
    with elsewhere() as device:
        there, same_scores = results(shared(device))
        assert same_scores == scores
        assert all_there(there)
        assert same(there, here)
