"""Linear probes: classifiers trained in one stack are those trained alone, and their scores say which loss helps."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.loss import probe
from components.loss.family import Member, SearchedLoss, decode
from components.loss.probe import ProbeData, probe_data, probe_scores, train_classifiers
from components.training.devices import one_thread
from components.training.metrics import log_likelihood
from tests.benchmarks.literal_loss import LiteralLoss, decode_literal

CLASSES = 5


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """As in a search."""
    with one_thread():
        yield


def features_of(count: int, seed: int, shares: list[float] | None = None) -> tuple[Tensor, Tensor]:
    """Clouds around a direction for each class that overlap a little."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.choice(CLASSES, count, p=shares))
    centres = torch.randn(CLASSES, 24, generator=torch.Generator().manual_seed(0))
    noise = torch.from_numpy(rng.standard_normal((count, 24))).float()
    return (centres[labels] + noise).relu(), labels


def data(wrong: float = 0.0, shares: list[float] | None = None) -> ProbeData:
    """200 training images, a share with another label, and 300 of val, as they are."""
    features, labels = features_of(200, 1, shares)
    moved = torch.rand(200, generator=torch.Generator().manual_seed(2)) < wrong
    given = torch.where(moved, (labels + 1 + torch.arange(200) % (CLASSES - 1)) % CLASSES, labels)
    val, val_labels = features_of(300, 3)
    return probe_data(features, given, val, val_labels, classes=CLASSES, rng=torch.Generator().manual_seed(4))


def margins(b: float, shares: list[float]) -> list[float]:
    logs = np.log(shares)
    return (b * (logs - logs.mean())).tolist()


def test_classifiers_of_one_stack_are_those_that_each_loss_trains_alone() -> None:
    rng, counts = np.random.default_rng(0), np.array([80, 50, 40, 20, 10])
    losses: list[Member] = [decode(0.5 * rng.standard_normal(14), counts=counts) for _ in range(3)]
    on = data()
    together, _ = train_classifiers(on, losses)
    for loss, found in zip(losses, together, strict=True):
        torch.testing.assert_close(train_classifiers(on, [loss])[0][0], found, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def logistic_regression(on: ProbeData, label_smoothing: float = 0.0) -> Tensor:
    """Adam's, full-batch, by PyTorch's cross-entropy."""
    weight = on.first.clone().requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=probe.RATE)
    for _ in range(probe.STEPS):
        optimiser.zero_grad()
        F.cross_entropy(on.features @ weight.T, on.labels, label_smoothing=label_smoothing).backward()
        optimiser.step()
    return weight.detach()


def test_a_probe_under_cross_entropy_is_adams_full_batch_logistic_regression() -> None:
    on = data()
    (score,) = probe_scores(on, [decode(np.zeros(12))], "log_likelihood")
    assert score == pytest.approx(log_likelihood(on.val_features @ logistic_regression(on).T, on.val_labels), rel=1e-3)


def test_the_size_of_a_loss_does_not_matter_and_label_smoothing_is_pytorchs() -> None:
    on, loss = data(), decode(np.full(12, 0.3), label_smoothing=0.2)
    once, (many,) = train_classifiers(on, [loss])[0][0], train_classifiers(on, [loss.at_scale(1000.0)])[0]
    torch.testing.assert_close(many, once, rtol=0.02, atol=0.01)
    smoothed, _ = train_classifiers(on, [decode(np.zeros(12), label_smoothing=0.2)])
    torch.testing.assert_close(smoothed[0], logistic_regression(on, 0.2), rtol=1e-3, atol=1e-3)


def test_losses_that_differ_in_more_than_buffers_are_no_stack() -> None:
    with pytest.raises(AssertionError, match="the first loss's for the whole stack"):
        train_classifiers(data(), [decode(np.zeros(12)), decode(np.zeros(12), label_smoothing=0.5)])


def test_features_count_by_their_direction_and_share_of_the_mean_length() -> None:
    features, labels = features_of(50, 1)
    one, other = (
        probe_data(size * features, labels, size * features, labels, classes=5, rng=torch.Generator().manual_seed(0))
        for size in (1.0, 64.0)
    )
    torch.testing.assert_close(one.features, other.features)
    assert one.features.norm(dim=1).mean().item() == pytest.approx(1, rel=1e-5)


def test_features_that_are_all_zero_give_the_score_of_a_guess() -> None:
    nothing, labels = torch.zeros(40, 8), torch.arange(40) % CLASSES
    on = probe_data(nothing, labels, nothing, labels, classes=CLASSES, rng=torch.Generator().manual_seed(0))
    (score,) = probe_scores(on, [decode(np.full(12, 0.2))], "log_likelihood")
    assert score == pytest.approx(-math.log(CLASSES), rel=1e-5)


def test_a_loss_that_is_no_number_spoils_its_own_classifier_alone() -> None:
    fine = decode_literal(np.zeros(12))
    broken = LiteralLoss(t=[[1.0, 0.0]] * 3, tau=[[1.0, -2.0]] * 3)
    scores = probe_scores(data(), [fine, broken, fine], "accuracy")
    assert math.isnan(scores[1])
    assert scores[0] == scores[2] > 0.7


@pytest.mark.parametrize("metric", ["lq_likelihood", "accuracy"])
def test_wrong_labels_ask_for_a_bounded_loss_and_right_ones_hardly_care(metric: str) -> None:
    losses: list[Member] = [SearchedLoss(t=[-1.0, 1.0], tau=[start, 1.0]) for start in (0.0, 0.4)]
    plain, bounded = probe_scores(data(wrong=0.4), losses, metric)
    assert bounded > plain + 0.03
    plain, bounded = probe_scores(data(), losses, metric)
    assert abs(bounded - plain) < 0.03


def test_rare_classes_ask_for_a_margin_by_their_size() -> None:
    shares = [0.5, 0.25, 0.17, 0.05, 0.03]
    losses: list[Member] = [
        SearchedLoss(t=[-1.0, 1.0], tau=[0.0, 1.0], class_logits=margins(b, shares)) for b in (0.0, 1.0)
    ]
    plain, adjusted = probe_scores(data(shares=shares), losses, "lq_likelihood")
    assert adjusted > plain + 0.02
