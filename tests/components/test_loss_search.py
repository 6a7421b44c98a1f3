"""The loss search: pairs, matched gradients, and a planted optimum that the controller finds and the null does not."""

import pickle
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int64, UInt8
from sklearn.datasets import load_digits
from torch import Tensor, nn

from components.data.store import Split
from components.loss.family import CLASS_FACTOR, KNOWN, SearchedLoss, closest, decode
from components.loss.probe import probe_data, probe_scores
from components.loss.search import (
    CLASSIFIER,
    LARGEST_SCALE,
    NO_VALUE,
    SMOOTH,
    LossWorld,
    gradient_norms,
    start,
)
from components.online.engine import race_copies, search
from components.online.gaussian import Gaussian, Sample
from components.settings.loss import Loss
from components.settings.online import Online
from components.settings.recipe import Recipe
from components.streams import stream, torch_rng, torch_stream
from components.training.devices import one_thread
from components.training.inference import predict, split_tensors
from components.training.loop import (
    Criterion,
    Diverged,
    State,
    batches_of,
    cross_entropy,
    initial_state,
    load_state,
    rising_steps,
    schedule,
    train_steps,
)
from components.training.metrics import METRICS, accuracy
from components.training.parallel import WorkerDied, sequential
from tests.benchmarks.literal_loss import LiteralWorld, literal_start

KNOTS = 6


def settings(**changes: object) -> Online:
    return Online(**{"trunks": 3, "copies": 4, "images": 64, "warmup_trunks": 0, **changes})  # type: ignore[arg-type]


# --- the distribution


def test_the_search_starts_at_cross_entropy() -> None:
    started = start(Loss(knots=KNOTS, sigma=0.1, online=settings()))
    np.testing.assert_allclose(decode(started.theta).knots["t"], np.linspace(-1, 1, KNOTS), atol=1e-12)
    assert started.sigma == 0.1


def test_a_controller_that_needs_the_same_samples_in_every_trunk_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss\.online\.controller is matching, .*; use bandit"):
        Loss(online=settings(reward="alignment", controller="matching"))


# --- a planted optimum


PLANTED = {
    "t": (np.linspace(-1, 1, KNOTS) - 0.2).tolist(),
    "tau": closest(KNOWN["focal"], KNOTS).knots["tau"],
}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A trunk's result is how near the sampled curves are to AM-softmax's t (m = .2) and focal's tau, and luck."""

    noise: float
    seed: int

    def distance(self, theta: Sample) -> float:
        knots = decode(np.array(theta)).knots
        return sum(float(np.mean(np.subtract(knots[part], wanted) ** 2)) for part, wanted in PLANTED.items())

    def train(self, state: State, sample: Sample, trunk: int, copy: int) -> State:
        luck = self.noise * stream(self.seed, "luck", trunk, copy).standard_normal()
        return {"model.gain": state["model.gain"] * 0 + (luck - self.distance(sample))}

    def score(self, state: State) -> float:
        return state["model.gain"].item()


def planted_distance(controller: str, reward: str, seed: int) -> tuple[float, float]:
    """Distance of theta's loss from the planted one before and after the search."""
    world = Planted(noise=0.01, seed=seed)
    broadcast = "average" if reward == "leave_one_out" else "best"
    chosen = settings(
        trunks=80, copies=8, controller=controller, controller_lr=0.05, reward=reward, broadcast=broadcast
    )
    gaussian = start(Loss(knots=KNOTS, sigma=0.2, online=chosen))
    trunks = search(
        gaussian,
        {"model.gain": torch.zeros(1, dtype=torch.float64)},
        play=partial(race_copies, train=world.train, score=world.score),
        score=world.score,
        settings=chosen,
        seed=seed,
    )
    *_, last = trunks
    return world.distance(tuple(gaussian.theta)), world.distance(tuple(last.theta))


@pytest.mark.parametrize("reward", ["own", "leave_one_out"])
def test_reinforce_finds_planted_knots(reward: str) -> None:
    for seed in range(2):
        before, after = planted_distance("reinforce", reward, seed)
        assert after < 0.3 * before, (seed, before, after)


def test_the_null_controller_does_not_move() -> None:
    before, after = planted_distance("null", "own", 0)
    assert after == before


# --- the world


class Tiny(nn.Module):
    """A network with batch norm, small enough for many searches a second."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.classifier = nn.Linear(12, 4, bias=False)

    def features(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        features: Tensor = self.body(images.flatten(1).float() / 255)
        return features

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        logits: Tensor = self.classifier(self.features(images))
        return logits


def split(count: int, seed: int) -> Split:
    """A quarter of each image's pixels is brighter: which one is the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    bright = np.arange(4) == labels[:, None]  # n 4
    images = rng.integers(0, 100, (count, 4, 4, 1)) + 60 * bright[:, :, None, None]
    return Split(images=images.astype(np.uint8), labels=labels)


def unchanged(images: UInt8[Tensor, "b c h w"], rng: torch.Generator) -> UInt8[Tensor, "b c h w"]:
    return images


def make_tiny() -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny()


SAMPLE = tuple(np.linspace(-0.5, 1, 2 * KNOTS).tolist())
RECIPE = Recipe(batch_size=16, learning_rate=0.1, crop=1)


def world(**changes: object) -> tuple[LossWorld, State]:
    """`changes` to the engine's settings."""
    made = LossWorld(
        make=make_tiny,
        train=split(128, 0),
        val=split(64, 1),
        augment=unchanged,
        settings=Loss(knots=KNOTS, online=settings(**changes)),
        recipe=RECIPE,
        seed=5,
    )
    return made, initial_state(make_tiny())


def test_a_matched_loss_has_the_gradient_norm_of_cross_entropy() -> None:
    made, state = world()
    loss = made.loss(SAMPLE, state)
    matched = loss.at_scale(made.matching_scale(loss, state, trunk=3))
    rng = stream(made.seed, "loss scale", 3)
    batch = rng.permutation(128)[:16]
    images, labels = split_tensors(Split(images=made.train.images[batch], labels=made.train.labels[batch]))
    images = made.plain().augment(images, torch_rng(rng))
    wanted, got, unmatched = gradient_norms(make_tiny(), state, images, labels, (cross_entropy(), matched, loss))
    assert got == pytest.approx(wanted, rel=1e-5)
    assert abs(unmatched / wanted - 1) > 0.02


def test_gradient_norms_are_over_all_parameters_and_leave_the_state_alone() -> None:
    made, state = world()
    images, labels = split_tensors(made.train)
    before = {key: value.clone() for key, value in state.items()}
    network = make_tiny()
    (norm,) = gradient_norms(network, state, images, labels, (cross_entropy(),))
    assert all(torch.equal(before[key], state[key]) for key in state)
    network.train()
    nn.functional.cross_entropy(network(images), labels).backward()
    wanted = torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).norm()
    assert norm == pytest.approx(wanted.item(), rel=1e-5)


def test_a_doubled_loss_is_the_same_loss_once_matched() -> None:
    made, state = world()
    loss = made.loss(SAMPLE, state)
    once, twice = (made.matching_scale(each, state, 0) for each in (loss, loss.at_scale(2.0)))
    assert twice == pytest.approx(once / 2, rel=1e-6)


def test_cross_entropy_keeps_scale_one_as_a_sample_and_as_the_artifact() -> None:
    made, state = world()
    zero = (0.0,) * 2 * KNOTS
    assert made.matching_scale(made.loss(zero, state), state, 0) == pytest.approx(1, rel=1e-6)
    found = made.found(np.array(zero), [state, made.train_copy(state, zero, 0, 0)])
    assert found.scale == pytest.approx(1, rel=1e-6)


def test_the_artifact_has_at_most_the_mean_gradient_norm_of_cross_entropy_along_the_search() -> None:
    made, state = world()
    states = [state, made.train_copy(state, SAMPLE, 0, 0)]
    rising = np.zeros(2 * KNOTS)
    rising[1:KNOTS] = 1.0  # t twice as steep: a larger gradient
    found = made.found(rising, states)
    first, second = (made.matching_scale(found, each, trunk) for trunk, each in enumerate(states))
    assert found.scale < 0.95
    assert first * second == pytest.approx(1, rel=1e-5)
    robust = np.zeros(2 * KNOTS)
    robust[KNOTS] = 1.0  # hopeless images pull less: a smaller one, which stays so
    assert made.matching_scale(made.loss(robust, state), state, 0) > 1
    assert made.found(robust, states).scale == 1


def without_gradient(
    features: Float[Tensor, "b d"], weight: Float[Tensor, "k d"], labels: Int64[Tensor, " b"]
) -> Float[Tensor, ""]:
    return 0.0 * cross_entropy()(features, weight, labels)


def test_a_loss_without_gradient_stays_slow_instead_of_being_blown_up() -> None:
    made, state = world()
    assert made.matching_scale(without_gradient, state, 0) == LARGEST_SCALE
    loss = made.loss(SAMPLE, state)
    assert made.matching_scale(loss.at_scale(1e-3), state, 0) == LARGEST_SCALE
    assert made.matching_scale(loss.at_scale(1e3), state, 0) == 1 / LARGEST_SCALE


def test_a_gradient_that_is_not_finite_loses_the_trunk() -> None:
    made, state = world()
    with pytest.raises(Diverged, match="no scale between them"):
        made.matching_scale(made.loss(SAMPLE, state).at_scale(float("inf")), state, 0)


def test_the_same_seed_gives_the_same_records_and_another_seed_others() -> None:
    made, _ = world()
    first = list(made.search())
    assert first == list(made.search())
    assert first != list(replace(made, seed=6).search())


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_search_goes_on_after_any_trunk_to_the_same_records_and_weights(last: int) -> None:
    made, _ = world()
    whole = list(made.search())
    rest = list(made.search(after=whole[last]))
    assert rest == whole[last + 1 :]
    for ours, theirs in zip(rest, whole[last + 1 :], strict=True):
        assert all(torch.equal(ours.state[key], theirs.state[key]) for key in theirs.state)


def test_the_world_travels_to_workers() -> None:
    made, state = world()
    train = pickle.loads(pickle.dumps(made.train_copy))
    here, there = made.train_copy(state, SAMPLE, 1, 2), train(state, SAMPLE, 1, 2)
    assert all(torch.equal(here[key], there[key]) for key in here)


def test_training_sees_no_val_image_and_scores_see_no_train_image() -> None:
    made, state = world(metric="log_likelihood", reward="own")
    here = made.train_copy(state, SAMPLE, 0, 0)
    there = replace(made, val=split(64, 9)).train_copy(state, SAMPLE, 0, 0)
    assert all(torch.equal(here[key], there[key]) for key in here)
    first = next(made.search())
    copy = made.train_copy(state, first.samples[2], 0, 2)
    network = make_tiny()
    load_state(network, copy)
    images, labels = split_tensors(made.val)
    plain = -nn.functional.cross_entropy(network.eval()(images).double(), labels)
    assert first.rewards[2] == pytest.approx(plain.item(), rel=1e-6)


# --- wrong labels


class Digits(nn.Module):
    """A network that learns wrong labels by heart if it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU())
        self.classifier = nn.Linear(128, 10, bias=False)

    def features(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        features: Tensor = self.body(images.flatten(1).float() / 16)
        return features

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        logits: Tensor = self.classifier(self.features(images))
        return logits


def make_digits() -> Digits:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Digits()


def noisy_digits(seed: int, wrong: float = 0.4) -> tuple[Split, Split, Split]:
    """800 train and 200 val images, a share of whose labels moved to another class, and 797 test images as they are."""
    rng, data = np.random.default_rng(seed), load_digits()
    rows = rng.permutation(1797)
    images, labels = data.images[rows, :, :, None].astype(np.uint8), data.target[rows].astype(np.int64)
    moved = (labels + rng.integers(1, 10, 1797)) % 10
    given = np.where((rng.random(1797) < wrong) & (np.arange(1797) < 1000), moved, labels)
    parts = (slice(0, 800), slice(800, 1000), slice(1000, None))
    train, val, test = (Split(images=images[part], labels=given[part]) for part in parts)
    return train, val, test


def rare_digits(seed: int) -> tuple[Split, Split, Split]:
    """The same with right labels, and classes in train of 80 to 4 images."""
    train, val, test = noisy_digits(seed, wrong=0.0)
    counts = np.geomspace(80, 4, 10).round().astype(int)
    rows = np.concatenate([np.flatnonzero(train.labels == kind)[: counts[kind]] for kind in range(10)])
    return Split(images=train.images[rows], labels=train.labels[rows]), val, test


def trained_accuracy(
    made: LossWorld, criterion: Criterion, test: Split, images: int, beginning: Criterion | None = None
) -> float:
    """Of a network from scratch under the criterion, on the search's training images."""
    pixels, labels = split_tensors(made.train)
    network, steps = make_digits(), images // made.recipe.batch_size
    with one_thread():  # as in a search; two would wait for each other beside another test
        state = train_steps(
            network, initial_state(network), pixels, labels,
            batches=batches_of(len(labels), made.recipe.batch_size, steps, np.random.default_rng(0)),
            rate=schedule(made.recipe, steps), first_step=0, augment=unchanged, criterion=criterion,
            beginning=beginning, rising=rising_steps(made.recipe, steps), recipe=made.recipe,
            rng=torch.Generator().manual_seed(0),
        )  # fmt: skip
    load_state(network, state)
    seen, right = split_tensors(test)
    return accuracy(predict(network, seen), right)


GRADIENTS = Online(
    trunks=4, copies=128, images=1024, head_start=2048, reward="alignment", probe_images=512, controller="bandit",
    controller_lr=0.1, metric="accuracy", warmup_trunks=0, learn_until=1.0,
)  # fmt: skip
PROBES = replace(GRADIENTS, reward="linear_probe", copies=64, controller_lr=0.15, metric="lq_likelihood")
"""As in the presets."""


@pytest.mark.parametrize("online", [GRADIENTS, PROBES], ids=["alignment", "linear_probe"])
def test_wrong_labels_are_found_though_val_has_as_many(online: Online) -> None:
    """The loss rises less than half as much as cross-entropy between p = .2 and .02, and frozen it trains better."""
    seed = 2
    train, val, test = noisy_digits(seed)
    made = LossWorld(make=make_digits, train=train, val=val, settings=Loss(online=online), recipe=Recipe(), seed=seed)
    trunks = list(made.search())
    loss = made.found(trunks[-1].theta, [trunk.state for trunk in trunks])
    hard, easier = loss.curve("tau", np.array([0.02, 0.2]))
    assert np.log(easier / hard) < 0.5 * np.log(10)
    found, plain = (trained_accuracy(made, criterion, test, 40_000) for criterion in (loss, cross_entropy()))
    assert found > plain + 0.1


def test_a_training_begun_under_cross_entropy_learns_the_classes_that_a_bounded_loss_gives_up() -> None:
    """Rare classes, tau(0) = .5, on two seeds."""
    bounded = SearchedLoss(t=[-1.0, 1.0], tau=[0.5, 1.0])
    for seed in (0, 1):
        train, val, test = rare_digits(seed)
        made = LossWorld(make=make_digits, train=train, val=val, settings=Loss(online=PROBES), recipe=Recipe(), seed=0)
        at_once, begun = (trained_accuracy(made, bounded, test, 20_000, first) for first in (None, bounded.beginning()))
        assert begun > at_once + 0.05, (at_once, begun)


# --- linear probes: what a loss makes of a classifier


PROBED = {"reward": "linear_probe", "controller": "bandit", "copies": 20, "probe_images": 100}


def test_rewards_are_the_scores_of_classifiers_on_the_trained_networks_features() -> None:
    made, _ = world(**PROBED | {"metric": "accuracy"})
    first = next(made.search())
    network, model = make_tiny(), first.state
    load_state(network, model)
    order, rng = made.order(0)
    images, labels = split_tensors(made.train.at(order[:100]))
    images = made.plain().augment(images, torch_rng(rng))
    val, val_labels = split_tensors(made.val)
    features, val_features = (network.eval().features(each).detach() for each in (images, val))
    start_at = torch_stream(made.seed, "probe classifier", 0)
    data = probe_data(features, labels, val_features, val_labels, classes=4, rng=start_at)
    alone = [probe_scores(data, [made.loss(sample, model)], "accuracy")[0] for sample in first.samples]
    assert first.rewards == pytest.approx(alone, abs=2 / 64)
    assert len(set(first.rewards)) > 1
    assert first.faults == ("",) * 20


def test_fewer_images_than_asked_for_and_a_class_that_val_lacks_are_no_matter() -> None:
    made, _ = world(**PROBED | {"probe_images": 10_000})
    present = np.flatnonzero(made.val.labels != 2)
    made = replace(made, val=Split(images=made.val.images[present], labels=made.val.labels[present]))
    assert all(np.isfinite(trunk.rewards).all() for trunk in made.search())


def literal_world(made: LossWorld) -> tuple[LiteralWorld, Gaussian]:
    """The same search of losses of which many are no number, and what it starts with."""
    parts = {field.name: getattr(made, field.name) for field in fields(made) if field.init}
    chosen = replace(made.settings, sigma=0.15)
    return LiteralWorld(**parts | {"settings": chosen}), literal_start(chosen)


def test_samples_without_a_score_say_why_and_cost_no_other() -> None:
    """The worker of the second stack dies; a literal loss is no number."""

    def deadly(function: Any, arguments: Any) -> list[Any]:
        results: list[Any] = sequential(function, arguments)
        return [results[0], WorkerDied(), results[2]] if len(results) == 3 else results

    made, _ = world(**PROBED)
    first = next(made.search(deadly))
    assert [n for n, fault in enumerate(first.faults) if fault] == list(range(8, 16))
    assert set(first.faults[8:16]) == {WorkerDied().reason}
    assert np.isnan(first.rewards[8:16]).all()
    assert np.isfinite(first.rewards[:8] + first.rewards[16:]).all()
    literal, around = literal_world(made)
    faults = [fault for trunk in literal.search(distribution=around) for fault in trunk.faults if fault]
    assert 0 < len(faults) < 60
    assert set(faults) == {NO_VALUE}
    below = around.at(around.theta - 9.0)  # tau is negative everywhere
    with pytest.raises(ValueError, match=rf"no sample of trunk 0 has a score \({NO_VALUE}\); use a smaller sigma"):
        next(literal.search(distribution=below))


def test_rare_classes_get_a_margin_by_their_size_and_balanced_ones_little() -> None:
    """b of both, as a multiple of balanced softmax's 1; one search is noisy (0.7 to 2.0 and -0.9 to 0.4)."""
    chosen = Loss(online=replace(PROBES, trunks=2), class_margins=True)
    found = np.zeros((3, 2))
    for seed in range(3):
        for kind, (train, val, _) in enumerate((rare_digits(seed), noisy_digits(seed, wrong=0.0))):
            made = LossWorld(make=make_digits, train=train, val=val, settings=chosen, recipe=Recipe(), seed=seed)
            *_, last = made.search()
            found[seed, kind] = CLASS_FACTOR * last.theta[-1]
    rare, balanced = found.mean(axis=0)
    assert rare > 0.5
    assert abs(balanced) < 0.5 * rare


# --- alignment: which way val points


ALIGNED = {"reward": "alignment", "controller": "bandit", "metric": "accuracy", "probe_images": 128}


@pytest.mark.parametrize("metric", ["accuracy", "lq_likelihood"])
def test_the_smooth_form_of_a_metric_is_the_metric_where_the_network_is_sure(metric: str) -> None:
    answers, labels = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 0, 1, 1, 2, 0])
    sure = 100 * nn.functional.one_hot(answers, 3).float()
    assert SMOOTH[metric](sure, labels).item() == pytest.approx(METRICS[metric](sure, labels), rel=1e-5)


def test_even_wrong_labels_shorten_the_slope_of_accuracy_and_do_not_turn_it() -> None:
    """The expectation over labels that move to each other class with the same probability, by hand."""
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(20) % 4

    def slope(kind: str, noise: float) -> Tensor:
        moved = sum(SMOOTH[kind](logits, (labels + step) % 4) for step in (1, 2, 3))
        (gradient,) = torch.autograd.grad((1 - noise) * SMOOTH[kind](logits, labels) + noise / 3 * moved, logits)
        return gradient.flatten()

    for kind, turned in (("accuracy", False), ("log_likelihood", True)):
        cosine = nn.functional.cosine_similarity(slope(kind, 0.0), slope(kind, 0.4), dim=0).item()
        assert (cosine < 0.99) == turned
        assert turned or cosine == pytest.approx(1, abs=1e-5)


def test_lq_likelihood_turns_less_than_log_likelihood_and_counts_hopeless_images_more_than_accuracy() -> None:
    logits = torch.tensor([[0.0, 6.0], [1.0, 0.0]]).requires_grad_()  # hopeless, nearly right
    labels = torch.tensor([0, 0])

    def ratio(kind: str) -> float:
        (gradient,) = torch.autograd.grad(SMOOTH[kind](logits, labels), logits)
        return float(gradient[0, 0] / gradient[1, 0])

    assert ratio("accuracy") < 0.02 < ratio("lq_likelihood") < 0.1 < ratio("log_likelihood")


def test_the_target_is_the_gradient_of_the_smooth_metric_by_the_classifier_on_either_half() -> None:
    made, state = world(**ALIGNED | {"metric": "lq_likelihood"})
    images, labels = split_tensors(made.val)
    for half, target in zip((slice(0, None, 2), slice(1, None, 2)), made.target_gradient(state, 0).halves, strict=True):
        network = make_tiny().eval()
        SMOOTH["lq_likelihood"](network(images[half]), labels[half]).backward()
        torch.testing.assert_close(target[CLASSIFIER], network.classifier.weight.grad, rtol=1e-4, atol=1e-6)


def test_a_training_gradient_is_the_direction_of_the_classifiers_step_on_the_images_of_the_trunk() -> None:
    made, state = world(**ALIGNED)  # as many probe images as training images: all of them, cropped
    later = made.train_copy(state, None, 0, 0)
    gradients = [made.training_gradient(where, sample, trunk, 0)[CLASSIFIER] for where, sample, trunk in (
        (state, None, 0), (state, (0.0,) * 2 * KNOTS, 0), (state, SAMPLE, 0), (state, None, 1), (later, None, 0),
    )]  # fmt: skip
    assert all(gradient.norm().item() == pytest.approx(1, rel=1e-5) for gradient in gradients)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert all(not torch.allclose(gradients[0], other, atol=1e-4) for other in gradients[2:]), (
        "nothing is remembered too long"
    )


AUGMENTED: list[int] = []


def counted(images: UInt8[Tensor, "b c h w"], rng: torch.Generator) -> UInt8[Tensor, "b c h w"]:
    AUGMENTED.append(len(images))
    return images


def test_all_samples_of_a_trunk_share_what_the_plain_gradient_computed_in_workers_too() -> None:
    AUGMENTED.clear()
    made, state = world(**ALIGNED)
    made = replace(made, augment=counted)
    made.training_gradient(state, None, 0, 0)
    there, same = pickle.loads(pickle.dumps((made, state)))
    gradients = [
        each.training_gradient(where, SAMPLE, 0, 1)[CLASSIFIER] for each, where in ((made, state), (there, same))
    ]
    assert AUGMENTED == [128]
    fresh = replace(made, augment=unchanged).training_gradient(state, SAMPLE, 0, 1)[CLASSIFIER]
    assert all(torch.equal(gradient, fresh) for gradient in gradients)
    made.training_gradient(state, SAMPLE, 1, 0)
    assert AUGMENTED == [128, 128]


def test_class_margins_are_searched_from_the_training_images_counts() -> None:
    made, state = world(**ALIGNED)
    made = replace(made, settings=replace(made.settings, class_margins=True))
    *_, last = made.search()
    assert len(last.theta) == 2 * KNOTS + 2
    few = replace(made, train=Split(images=made.train.images[:40], labels=np.repeat([0, 1, 2, 3], [30, 5, 4, 1])))
    class_logits = few.loss([0.0] * (2 * KNOTS + 1) + [1.0], state).class_logits
    assert class_logits is not None
    np.testing.assert_allclose(class_logits[0] - class_logits[3], CLASS_FACTOR * np.log(30), rtol=1e-6)


def test_a_literal_search_loses_copies_says_why_and_goes_on() -> None:
    made, _ = world(**(ALIGNED | {"reward": "leave_one_out", "trunks": 4, "copies": 8}))
    literal, around = literal_world(made)
    trunks = list(literal.search(distribution=around))
    lost = [fault for trunk in trunks for fault in trunk.faults if fault]
    assert 0 < len(lost) < 32
    assert all(("gradient" in fault) or ("loss" in fault) for fault in lost)
    assert np.isfinite(trunks[-1].theta).all()
    assert trunks[-1].theta.any()


@pytest.mark.parametrize("changes", [ALIGNED, PROBED], ids=["alignment", "linear_probe"])
def test_a_search_of_one_model_goes_on_after_a_trunk_to_the_same_records_and_weights(changes: dict[str, Any]) -> None:
    made, _ = world(**changes)
    whole = list(made.search())
    rest = list(made.search(after=whole[0]))
    assert rest == whole[1:]
    np.testing.assert_array_equal(rest[-1].theta, whole[-1].theta)
    assert all(torch.equal(rest[-1].state[key], whole[-1].state[key]) for key in rest[-1].state)
