"""The one training path: deterministic, resumable at any step, and what it promises about batches, rates and crops."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.online.world import negative_gradient
from components.settings.recipe import Recipe
from components.settings.train import Train
from components.training.crop_flip import base_augment, random_crop, random_flip
from components.training.fit import Epoch, fit
from components.training.inference import predict
from components.training.loop import (
    Criterion,
    Diverged,
    State,
    batches_of,
    cross_entropy,
    epoch_batches,
    initial_state,
    load_state,
    schedule,
    train_steps,
)
from components.training.metrics import (
    accuracy,
    calibrated_log_likelihood,
    likelihood,
    log_likelihood,
    lq_likelihood,
)


class TinyNetwork(nn.Module):
    """A convolution, batch norm and a classifier: everything that a state must carry."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
            self.classifier = nn.Linear(6, 2, bias=False)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images.float() / 255).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def stripes(count: int = 64) -> tuple[Tensor, Tensor]:
    """Horizontal against vertical stripes with noise: learnable, not trivial."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    ramp = np.where(np.arange(8) % 4 < 2, 200, 30)
    clean = np.where(labels[:, None, None] == 0, ramp[:, None], ramp[None, :])
    images = np.clip(clean + rng.normal(0, 30, (count, 8, 8)), 0, 255).astype(np.uint8)
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels)


def train(
    state: State,
    first: int,
    steps: list[Tensor],
    recipe: Recipe,
    draws: torch.Generator,
    network: nn.Module | None = None,
) -> State:
    images, labels = stripes()
    return train_steps(
        network or TinyNetwork(),
        state,
        images,
        labels,
        batches=steps,
        rate=schedule(recipe, 20),
        first_step=first,
        augment=base_augment(recipe),
        criterion=cross_entropy(),
        recipe=recipe,
        rng=draws,
    )


def test_training_cut_in_two_ends_with_the_same_bytes_as_training_in_one() -> None:
    recipe = Recipe(batch_size=16, crop=1, flip=True)
    steps = list(batches_of(64, 16, 20, np.random.default_rng(3)))
    draws = torch.Generator().manual_seed(5)
    whole = train(initial_state(TinyNetwork()), 0, steps, recipe, draws)
    draws = torch.Generator().manual_seed(5)
    half = train(initial_state(TinyNetwork()), 0, steps[:9], recipe, draws)
    resumed = train(half, 9, steps[9:], recipe, draws)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_layers_train_in_the_recipes_type_and_everything_else_stays_float32() -> None:
    seen: list[torch.dtype] = []

    class Watched(TinyNetwork):
        def features(self, images: Tensor) -> Tensor:
            seen.append(self.body[0](images.float()).dtype)
            return super().features(images)

    steps, ends = list(batches_of(64, 16, 8, np.random.default_rng(3))), {}
    for dtype in ("float32", "bfloat16"):
        recipe = Recipe(batch_size=16, dtype=dtype)
        network = Watched()
        ends[dtype] = train(initial_state(network), 0, steps, recipe, torch.Generator(), network)
        assert set(seen) == {getattr(torch, dtype)}
        seen.clear()
        with torch.no_grad():
            network.features(stripes()[0])
        assert seen.pop() == torch.float32  # evaluation
    assert all(value.dtype in (torch.float32, torch.int64) for value in ends["bfloat16"].values())
    weights = [one["model.body.0.weight"] for one in ends.values()]
    assert not torch.equal(*weights)
    assert torch.allclose(*weights, atol=0.02)


def test_momentum_and_batch_norm_statistics_travel_in_the_state() -> None:
    recipe = Recipe(batch_size=16)
    trained = train(
        initial_state(TinyNetwork()),
        0,
        list(batches_of(64, 16, 4, np.random.default_rng(0))),
        recipe,
        torch.Generator(),
    )
    assert trained["momentum.body.0.weight"].abs().sum() > 0
    assert trained["model.body.1.num_batches_tracked"] == 4
    assert not torch.equal(trained["model.body.1.running_mean"], torch.zeros(6))


def test_fit_learns_and_repeats_itself_exactly() -> None:
    images, labels = stripes(128)
    settings = Train(epochs=6, recipe=Recipe(batch_size=16, learning_rate=0.2))
    finals = []
    for _ in range(2):
        network = TinyNetwork()
        epochs = list(
            fit(
                network,
                images,
                labels,
                settings=settings,
                augment=base_augment(settings.recipe),
                criterion=cross_entropy(),
                seed=7,
            )
        )
        load_state(network, epochs[-1].state)
        finals.append(predict(network, images))
    assert torch.equal(finals[0], finals[1])
    assert accuracy(finals[0], labels) > 0.95
    assert epochs[-1].loss < epochs[0].loss


def test_a_training_begins_under_another_criterion_while_the_rate_rises_and_goes_on_to_the_same_bytes() -> None:
    """3 epochs of 4 steps, of which the first 5 rise: the change falls into the second epoch."""
    images, labels = stripes(64)
    settings = Train(epochs=3, ema=0.0, recipe=Recipe(batch_size=16, crop=1, warmup=0.4))
    asked: list[str] = []

    def named(name: str) -> Criterion:
        def loss(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
            asked.append(name)
            return (2.0 if name == "then" else 1.0) * cross_entropy()(features, weight, labels)

        return loss

    def epochs(after: Epoch | None = None) -> list[Epoch]:
        return list(
            fit(
                TinyNetwork(), images, labels, settings=settings, augment=base_augment(settings.recipe),
                criterion=named("then"), beginning=named("first"), seed=0, after=after,
            )
        )  # fmt: skip

    whole = epochs()
    assert asked == ["first"] * 5 + ["then"] * 7
    asked.clear()
    tail = epochs(after=whole[0])
    assert asked == ["first"] + ["then"] * 7
    assert all(torch.equal(tail[-1].state[key], whole[-1].state[key]) for key in whole[-1].state)


def averaged(epochs: int, batch_size: int, ema: float = 0.999, after: Epoch | None = None) -> list[Epoch]:
    images, labels = stripes()
    settings = Train(epochs=epochs, ema=ema, recipe=Recipe(batch_size=batch_size, crop=1))
    return list(
        fit(
            TinyNetwork(), images, labels, settings=settings, augment=base_augment(settings.recipe),
            criterion=cross_entropy(), seed=0, after=after,
        )
    )  # fmt: skip


@pytest.mark.parametrize("key", ["model.classifier.weight", "model.body.1.running_mean"])
def test_the_moving_average_ships_and_keeps_nothing_of_the_first_weights(key: str) -> None:
    epochs = averaged(30, batch_size=64)  # one step each
    weights = [initial_state(TinyNetwork())[key], *(epoch.trained[key] for epoch in epochs)]
    shares = np.zeros(len(weights))
    shares[0] = 1.0
    for step in range(len(epochs)):
        decay = min(0.999, (1 + step) / (10 + step))
        shares *= decay
        shares[step + 1] = 1 - decay
        expected = sum(share * weight for share, weight in zip(shares, weights, strict=True))
        assert torch.allclose(epochs[step].state[key], torch.as_tensor(expected).float(), atol=1e-6)
    assert shares[0] < 1e-6


def test_without_a_moving_average_the_last_weights_ship() -> None:
    last = averaged(2, batch_size=16, ema=0.0)[-1]
    assert all(torch.equal(last.state[key], last.trained[key]) for key in last.state if key.startswith("model."))


@pytest.mark.parametrize("done", [1, 2])
def test_a_training_with_a_moving_average_goes_on_from_any_of_its_epochs_to_the_same_bytes(done: int) -> None:
    epochs = averaged(4, batch_size=16)
    tail = averaged(4, batch_size=16, after=epochs[done])
    assert [epoch.index for epoch in tail] == list(range(done + 1, 4))
    for again, before in zip(tail, epochs[done + 1 :], strict=True):
        assert all(torch.equal(again.state[key], before.state[key]) for key in before.state)


def test_a_loss_that_is_not_finite_raises_diverged() -> None:
    state = initial_state(TinyNetwork())
    state["model.classifier.weight"] = torch.full_like(state["model.classifier.weight"], math.nan)
    with pytest.raises(Diverged, match="step 0"):
        train(state, 0, [torch.arange(16)], Recipe(batch_size=16), torch.Generator())


def test_weight_decay_spares_batch_norm() -> None:
    recipe = Recipe(batch_size=16, weight_decay=0.9, momentum=0.0, learning_rate=1.0e-6)
    before = initial_state(TinyNetwork())
    images, labels = stripes()

    def flat(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return (features.sum() + weight.sum()) * 0.0

    after = train_steps(
        TinyNetwork(), before, images, labels, batches=[torch.arange(16)], rate=lambda step: 1.0, first_step=0,
        augment=base_augment(recipe), criterion=flat, recipe=recipe, rng=torch.Generator(),
    )  # fmt: skip
    assert torch.allclose(after["model.body.0.weight"], 0.1 * before["model.body.0.weight"])
    assert torch.equal(after["model.body.1.weight"], before["model.body.1.weight"])


def test_the_rate_warms_up_to_its_peak_and_falls_towards_zero() -> None:
    rates = [schedule(Recipe(learning_rate=0.5, warmup=0.2), 50)(step) for step in range(50)]
    assert max(rates) == 0.5
    assert rates.index(0.5) in (9, 10)
    assert all(low < high for low, high in pairwise(rates[:10]))
    assert all(high >= low for high, low in pairwise(rates[10:]))
    assert rates[-1] < 0.01


def test_an_epoch_uses_every_image_at_most_once_and_drops_the_partial_batch() -> None:
    batches = epoch_batches(50, 16, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [16, 16, 16]
    assert len(torch.cat(batches).unique()) == 48
    assert [len(batch) for batch in epoch_batches(5, 16, np.random.default_rng(0))] == [5]


def test_a_crop_is_a_window_of_the_reflected_image() -> None:
    images = torch.randint(0, 256, (40, 2, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    cropped = random_crop(2)(images, torch.Generator().manual_seed(1))
    places = set()
    for one, whole in zip(cropped, padded, strict=True):
        found = [(r, c) for r in range(5) for c in range(5) if torch.equal(one, whole[:, r : r + 9, c : c + 9])]
        assert found
        places.update(found)
    assert len(places) > 10


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.arange(9, dtype=torch.uint8).expand(400, 1, 9, 9).contiguous()
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped != images).flatten(1).any(dim=1)
    assert torch.equal(flipped[mirrored], images[mirrored].flip(3))
    assert 160 < int(mirrored.sum()) < 240


def test_metrics_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).log_softmax(dim=1)
    labels = torch.tensor([0, 1])
    assert accuracy(logits, labels) == 0.5
    assert log_likelihood(logits, labels) == pytest.approx((-math.log1p(math.exp(-2)) - math.log(2)) / 2)
    assert likelihood(logits, labels) == pytest.approx(math.sqrt(1 / (1 + math.exp(-2)) / 2))
    assert likelihood(logits * torch.tensor(math.inf), labels) == 0


@pytest.mark.parametrize("sharpness", [0.05, 1.0, 20.0])
def test_calibrated_log_likelihood_sees_the_order_and_not_the_sureness(sharpness: float) -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (200,), generator=rng)
    logits = torch.randn(200, 5, generator=rng) + 1.5 * F.one_hot(labels, 5)
    calibrated = calibrated_log_likelihood(logits, labels)
    assert calibrated_log_likelihood(sharpness * logits, labels) == pytest.approx(calibrated, abs=1e-6)
    by_grid = max(log_likelihood(2.0**power * logits, labels) for power in torch.arange(-4, 4, 0.01).tolist())
    assert calibrated == pytest.approx(by_grid, abs=1e-4)


def test_calibrated_log_likelihood_of_logits_that_know_nothing_is_that_of_a_guess() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    backwards = -F.one_hot(labels, 4).float()
    for logits in (torch.zeros(4, 4), backwards, 100 * backwards):
        assert calibrated_log_likelihood(logits, labels) == pytest.approx(-math.log(4), abs=0.03)
    assert calibrated_log_likelihood(-backwards, labels) == pytest.approx(0, abs=1e-9)


def test_lq_likelihood_is_minus_the_generalised_cross_entropy() -> None:
    logits, labels = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]]), torch.tensor([0, 0])
    expected = -((1 - 0.25**0.7) / 0.7 + (1 - 0.75**0.7) / 0.7) / 2
    assert lq_likelihood(logits, labels) == pytest.approx(expected)
    assert lq_likelihood(torch.tensor([[0.0, 1e6]]), torch.tensor([0])) == pytest.approx(-1 / 0.7)


def test_a_gradient_in_bfloat16_points_where_that_in_float32_points() -> None:
    images, labels = stripes()
    state = initial_state(TinyNetwork())
    found = [
        negative_gradient(TinyNetwork(), state, images, labels, cross_entropy(), Recipe(dtype=dtype))[0]
        for dtype in ("float32", "bfloat16")
    ]
    exact, rough = (torch.cat([value.flatten() for value in one.values()]) for one in found)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert F.cosine_similarity(exact, rough, dim=0) > 0.99
