"""Muon: orthogonal steps for convolutions, beside SGD for the rest, in one resumable state."""

import numpy as np
import torch
from torch import Tensor, nn

from components.settings.recipe import Recipe
from components.training.crop_flip import base_augment
from components.training.loop import State, batches_of, cross_entropy, initial_state, make_optimisers, train_steps
from components.training.muon import Muon, muon_weights, orthogonalised
from tests.components.test_training import TinyNetwork, stripes

RECIPE = Recipe(batch_size=16, crop=1, flip=True, muon=0.05)


def train(state: State, steps: list[Tensor], first: int, draws: torch.Generator, recipe: Recipe = RECIPE) -> State:
    images, labels = stripes()
    return train_steps(
        TinyNetwork(), state, images, labels, batches=steps, rate=lambda step: 0.1, first_step=first,
        augment=base_augment(recipe), criterion=cross_entropy(), recipe=recipe, rng=draws,
    )  # fmt: skip


def test_an_orthogonalised_matrix_has_singular_values_near_1_and_the_same_directions() -> None:
    rng = torch.Generator().manual_seed(0)
    for shape in ((8, 27), (27, 8), (16, 16)):
        matrix = torch.randn(shape, generator=rng)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        found = orthogonalised(matrix)
        inner = u.T @ found @ v.T  # diagonal, if the directions are kept
        assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-3)
        strong = torch.linalg.svdvals(matrix) > 0.2 * torch.linalg.svdvals(matrix).max()
        assert ((inner.diagonal()[strong] > 0.5) & (inner.diagonal()[strong] < 1.4)).all()


def test_it_moves_convolutions_that_mix_channels_and_no_gates_depthwise_or_linear_weights() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
    )
    (found,) = muon_weights(network)
    assert found is network[0].weight


def test_every_parameter_has_one_optimiser_and_rates_keep_their_ratio() -> None:
    network = TinyNetwork()
    optimisers = make_optimisers(network, initial_state(network), RECIPE)
    owned = [p for one in optimisers for group in one.param_groups for p in group["params"]]
    assert len(owned) == len({id(p) for p in owned}) == len(list(network.parameters()))
    shares = [group["share"] for one in optimisers for group in one.param_groups]
    assert shares == [1.0, 1.0, RECIPE.muon / RECIPE.learning_rate]
    assert len(make_optimisers(network, initial_state(network), Recipe())) == 1


def test_a_step_keeps_the_norm_of_a_weight_and_moves_it_as_far_as_the_rate_says() -> None:
    weight = nn.Parameter(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1)))
    idle = nn.Parameter(torch.ones(2, 2, 1, 1))
    scaled = weight.detach() * 8**0.5 / weight.detach().norm()
    weight.grad = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    muon = Muon([weight, idle], 0.01)
    muon.step()
    assert torch.equal(idle, torch.ones(2, 2, 1, 1))  # without a gradient
    step = (weight.detach() - scaled).norm()
    assert 0.01 * 0.7 * 8**0.5 < step < 0.01 * 1.3 * 8**0.5  # eight singular values near 1


def test_training_by_muon_cut_in_two_ends_with_the_same_bytes() -> None:
    steps = list(batches_of(64, 16, 12, np.random.default_rng(3)))
    draws = torch.Generator().manual_seed(5)
    whole = train(initial_state(TinyNetwork()), steps, 0, draws)
    draws = torch.Generator().manual_seed(5)
    half = train(initial_state(TinyNetwork()), steps[:5], 0, draws)
    resumed = train(half, steps[5:], 5, draws)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert whole["momentum.body.0.weight"].abs().sum() > 0
    assert abs(float(whole["model.body.0.weight"].norm()) - 6**0.5) < 0.2


def test_without_muon_nothing_differs_from_sgd_alone() -> None:
    steps = list(batches_of(64, 16, 6, np.random.default_rng(3)))
    recipe = Recipe(batch_size=16)
    state = train(initial_state(TinyNetwork()), steps, 0, torch.Generator().manual_seed(5), recipe)
    network, sgd = TinyNetwork(), None
    images, labels = stripes()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    sgd = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free}],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    for batch in steps:
        sgd.zero_grad()
        nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
        sgd.step()
    assert torch.equal(network.body[0].weight, state["model.body.0.weight"])
