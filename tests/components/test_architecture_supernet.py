"""The supernet: the stand-alone network's operators, statistics of one sub-network, and blocks that stay where they
are while others train."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from components.architecture.network import build_network
from components.architecture.space import Architecture, candidates, space_of
from components.architecture.strategies import search
from components.architecture.supernet import (
    GROUP,
    SharedWeights,
    build_supernet,
    chunks,
    group_by_beginning,
    random_path,
)
from components.data.store import Classes
from components.settings.architecture import Architecture as ArchitectureSettings
from components.settings.recipe import Recipe
from components.training.inference import predict
from components.training.metrics import accuracy

CLASSES = Classes(names=tuple("0123456789"), size=8, channels=1)
MEAN, STD = (0.3,), (0.4,)
A: Architecture = ("mb_k3_e2", "res_k3", "mb_k3_e2_se")
B: Architecture = ("identity", "mb_k3_e2", "res_k3")


def settings(**changes: object) -> ArchitectureSettings:
    values: dict[str, object] = {
        "margin": 0.0,
        "stem": 8,
        "stem_stride": 1,
        "stages": ((8, 1, 1), (12, 2, 2)),
        "blocks": ("mb_k3_e2", "res_k3", "mb_k3_e2_se", "identity"),
        "pool": 2,
        "completions": 2,
        "warmup_epochs": 2.0,
        "stage_epochs": 1.0,
        "score_images": 100,
        "recalibration_images": 300,
        "max_images": 256,
    }
    return ArchitectureSettings(**(values | changes))


SPACE = space_of(settings(), CLASSES)
RECIPE = Recipe(batch_size=32, learning_rate=0.1, crop=1)


def digits(first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    images = (data.images[first:last, :, :, None] * 15).astype(np.uint8)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(data.target[first:last].astype(np.int64))


def shared(seed: int = 0, **changes: object) -> SharedWeights:
    supernet = build_supernet(SPACE, MEAN, STD, seed)
    return SharedWeights(supernet, settings(**changes), RECIPE, digits(0, 600), digits(600, 900), seed)


def weights_of(weights: SharedWeights) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in weights.supernet.named_parameters()}


@pytest.fixture(scope="module")
def trained() -> SharedWeights:
    weights = shared()
    weights.train_stage(0, ((),))
    return weights


def standalone(weights: SharedWeights, architecture: Architecture) -> nn.Module:
    network = build_network(SPACE, architecture, MEAN, STD)
    network.load_state_dict(weights.supernet.standalone(architecture))
    return network


@pytest.mark.parametrize("architecture", [A, B])
def test_a_path_computes_what_the_stand_alone_network_computes(
    trained: SharedWeights, architecture: Architecture
) -> None:
    images = digits(600, 640)[0]
    trained.supernet.eval()
    assert torch.equal(trained.supernet(images, architecture), predict(standalone(trained, architecture), images))


@pytest.mark.parametrize("architecture", [A, B])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("metric", ["accuracy", "likelihood"])
def test_a_score_uses_statistics_of_that_sub_network_alone(
    trained: SharedWeights, architecture: Architecture, stage: int, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "settings", settings(metric=metric))
    network = standalone(trained, architecture)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        for chunk in chunks(trained.recalibration_images()):
            network(chunk)
    shown = trained.val_slice(stage)
    logits, labels = predict(network, trained.val_images[shown]), trained.val_labels[shown]
    right = logits.softmax(dim=1)[range(len(labels)), labels]
    expected = {"accuracy": accuracy(logits, labels), "likelihood": right.double().log().mean().exp().item()}[metric]
    trained.score(B if architecture == A else A, stage)  # whose statistics must leave no trace
    assert trained.score(architecture, stage) == pytest.approx(expected, rel=1e-5)


def test_statistics_are_taken_over_the_augmented_slice_in_large_chunks(trained: SharedWeights) -> None:
    parts = chunks(trained.recalibration_images())
    assert [len(part) for part in parts] == [128, 128]  # of 300 asked for, 256 images are trained on
    assert [len(part) for part in chunks(digits(0, 300)[0])] == [150, 150]
    assert not torch.equal(torch.cat(parts).sort(0).values, trained.train_images.sort(0).values)
    assert all(torch.equal(*pair) for pair in zip(parts, chunks(trained.recalibration_images()), strict=True))


def test_the_last_stage_scores_on_all_of_val_and_earlier_ones_on_a_slice_of_their_own(trained: SharedWeights) -> None:
    slices = [trained.val_slice(stage) for stage in (1, 2, 3)]
    assert [len(these) for these in slices] == [100, 100, 300]
    assert sorted(slices[2].tolist()) == list(range(300))
    assert set(slices[0].tolist()) != set(slices[1].tolist())
    assert torch.equal(trained.val_slice(1), slices[0])


def test_only_the_blocks_on_the_path_move_even_with_momentum_and_decay() -> None:
    weights = shared()
    weights.train_stage(0, ((),))
    before = weights_of(weights)
    weights.train_stage(3, (A,))
    moved = {name for name, value in weights.supernet.named_parameters() if not torch.equal(value, before[name])}
    on_path = {f"layers.{layer}.{block}." for layer, block in enumerate(A)}
    assert moved == {name for name in before if not name.startswith("layers.") or name.startswith(tuple(on_path))}


def test_early_layers_come_from_the_pool_and_later_ones_are_uniform() -> None:
    names = [candidates(SPACE, layer) for layer in range(3)]
    rng = np.random.default_rng(0)
    paths = [random_path(names, (A[:2], B[:2]), rng) for _ in range(3000)]
    assert {path[:2] for path in paths} == {A[:2], B[:2]}
    for block in names[2]:
        share = np.mean([path[2] == block for path in paths])
        assert abs(share - 1 / len(names[2])) < 0.04


def test_training_and_scores_depend_on_the_seed_alone() -> None:
    first, same, other = shared(1), shared(1), shared(2)
    for weights in (first, same, other):
        weights.train_stage(0, ((),))
    assert all(torch.equal(value, weights_of(same)[name]) for name, value in weights_of(first).items())
    assert not torch.equal(weights_of(first)["classifier.weight"], weights_of(other)["classifier.weight"])
    assert first.score(A, 1) == same.score(A, 1)


def test_the_learning_rate_is_one_schedule_over_warm_up_and_stages() -> None:
    weights = shared()
    assert [weights.first_step(stage) for stage in range(5)] == [0, 16, 24, 32, 40]
    assert weights.rate(0) < weights.rate(4) > weights.rate(39)
    assert weights.rate(39) < 0.01 * RECIPE.learning_rate


def test_a_search_on_digits_finds_a_network_that_has_learnt_and_fits() -> None:
    weights = shared(warmup_epochs=8.0, stage_epochs=3.0, max_images=None, metric="accuracy")
    costs = {"identity": 0.0, "mb_k3_e2": 0.3, "mb_k3_e2_se": 0.4, "res_k3": 0.5}
    world = weights.world(lambda architecture: sum(costs[block] for block in architecture))
    *_, last = search(SPACE, world, settings(), 1.05, 0)
    best = last.pool[0]
    assert best.highest is not None
    assert best.highest > 0.6
    assert best.latency is not None
    assert best.latency <= 1.05


# Many scores at once


@pytest.mark.parametrize("metric", ["accuracy", "likelihood"])
def test_scores_in_groups_are_the_scores_one_after_the_other(
    trained: SharedWeights, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "settings", settings(metric=metric))
    every = list(itertools.product(*trained.layers))[::4]
    for stage in (1, 3):
        assert trained.score_all(every, stage) == [trained.score(a, stage) for a in every]


def test_networks_of_a_group_begin_alike_and_each_is_in_one() -> None:
    every = list(itertools.product(*(candidates(SPACE, layer) for layer in range(3))))
    groups = group_by_beginning([*every, *every[:5]], settled=1)
    assert sorted(itertools.chain(*groups)) == sorted(every)
    assert all(len({a[:1] for a in group}) == 1 and len(group) <= GROUP for group in groups)


# A state to go on from


def test_weights_restored_into_a_fresh_supernet_train_on_to_the_same_bytes() -> None:
    calm, again = shared(1), shared(1)
    calm.train_stage(0, ((),))
    again.restore(calm.state())
    calm.score(A, 1)  # leaves statistics behind, which must not matter
    for weights in (calm, again):
        weights.train_stage(1, ((),))
    assert all(torch.equal(value, weights_of(again)[name]) for name, value in weights_of(calm).items())
    assert calm.score(A, 2) == again.score(A, 2)
