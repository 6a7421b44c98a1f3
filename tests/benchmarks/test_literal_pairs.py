"""The paper's distributions: their gradients are exact, their draws follow them, and the engine can learn them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from components.augmentation.operations import ELEMENTS
from components.online.controllers import Distribution
from tests.benchmarks.literal_pairs import LiteralPairs, SigmoidPairs, first_literal

Chosen = SigmoidPairs | LiteralPairs
KINDS = ["sigmoid", "literal"]


def distribution(kind: str) -> Chosen:
    """Uniform."""
    ours = SigmoidPairs(theta=np.zeros(2 * len(ELEMENTS)), elements=ELEMENTS, pairs=5)
    return ours if kind == "sigmoid" else first_literal(5)


def drawn(kind: str) -> Chosen:
    """With random logits."""
    start = distribution(kind)
    return start.at(np.random.default_rng(0).normal(size=start.theta.shape))


def log_probability(chosen: Chosen, theta: Tensor, sample: tuple[tuple[int, int], ...]) -> Tensor:
    """Written out again, for autograd: the mean over the sample's pairs."""

    def log_of(logits: Tensor) -> Tensor:
        return (torch.sigmoid(logits) / torch.sigmoid(logits).sum()).log()

    kinds, (first, second) = len(chosen.elements), torch.tensor(sample).T
    if isinstance(chosen, LiteralPairs):
        return log_of(theta)[first * kinds + second].mean()
    return (log_of(theta[:kinds])[first] + log_of(theta[kinds:])[second]).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_gradient_is_autograds(kind: str) -> None:
    chosen = drawn(kind)
    theta = torch.from_numpy(chosen.theta.copy()).requires_grad_()
    (sample,) = chosen.sample(1, np.random.default_rng(0))
    log_probability(chosen, theta, sample).backward()
    assert theta.grad is not None
    assert chosen.score_gradient(sample) == pytest.approx(theta.grad.numpy(), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_joint_distribution(kind: str) -> None:
    chosen = drawn(kind)
    assert chosen.joint().sum() == pytest.approx(1)
    pairs = np.concatenate([np.array(s) for s in chosen.sample(8000, np.random.default_rng(0))])
    for axis in (0, 1):
        seen = np.bincount(pairs[:, axis], minlength=len(chosen.elements)) / len(pairs)
        assert seen == pytest.approx(chosen.joint().sum(axis=1 - axis), abs=0.006)


@pytest.mark.parametrize(("kind", "logits"), [("sigmoid", 38 + 38), ("literal", 36**2)])
def test_it_is_an_engines_distribution_and_starts_uniform(kind: str, logits: int) -> None:
    start = distribution(kind)
    assert isinstance(start, Distribution)
    assert start.theta.shape == (logits,)
    assert start.joint() == pytest.approx(np.full_like(start.joint(), len(start.elements) ** -2))


def test_the_sigmoid_caps_an_element_near_twice_its_start() -> None:
    """One logit far up: sigma goes from 1/2 to 1, so p at most doubles; by softmax it would be 38 times as large."""
    start = distribution("sigmoid")
    theta = np.zeros_like(start.theta)
    theta[3] = 8.0
    assert 1.9 < start.at(theta).joint().sum(axis=1)[3] * len(start.elements) < 2.0


def test_features_of_pairs_are_shares_and_the_prior_is_a_covariance() -> None:
    chosen = drawn("literal")
    (sample,) = chosen.sample(1, np.random.default_rng(0))
    assert chosen.features(sample).sum() == pytest.approx(1)
    prior = chosen.prior()
    assert np.array_equal(prior, prior.T)
    assert np.diag(prior) == pytest.approx(1)
    assert np.linalg.eigvalsh(prior[:50, :50]).min() > 0
