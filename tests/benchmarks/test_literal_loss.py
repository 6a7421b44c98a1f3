"""The paper's parametrisation by hand, and how often it is no loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from components.loss.family import decode
from tests.benchmarks.literal_loss import LiteralLoss, decode_literal
from tests.components.test_loss_family import problem, smoothed_cross_entropy


def test_literal_theta_zero_is_cross_entropy_where_p_does_not_underflow() -> None:
    data = problem(64, 32, 10)
    loss = decode_literal(np.zeros(24))
    torch.testing.assert_close(loss(*data), smoothed_cross_entropy(0.0)(*data), rtol=1e-5, atol=1e-6)


def test_literal_values_by_hand() -> None:
    """Two intervals; cosine .5 lies in the second of t: 2 x .5 - 1.2 = -.2; p = .4502 in the first of tau."""
    loss = LiteralLoss(t=[[1.0, 0.0], [2.0, -1.2]], tau=[[0.5, 0.1], [1.0, 0.0]])
    x = torch.tensor([[0.5, 0.75**0.5, 0.0]])
    w = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    p = 1 / (1 + np.exp(0.2))
    assert loss(x, w, torch.tensor([0])).item() == pytest.approx(-np.log(0.5 * p + 0.1), rel=1e-5)
    np.testing.assert_allclose(loss.curve("t", np.array([-0.5, 0.5])), [-0.5, -0.2])
    assert torch.equal(loss.at_scale(2.0)(x, w, torch.tensor([0])), 2.0 * loss(x, w, torch.tensor([0])))


def test_a_literal_tau_below_zero_gives_no_number_and_no_monotone_one_does() -> None:
    data = problem(64, 32, 10)
    rng = np.random.default_rng(0)
    literal = [decode_literal(0.2 * rng.standard_normal(24))(*data).isfinite().item() for _ in range(50)]
    ours = [decode(0.2 * rng.standard_normal(14))(*data).isfinite().item() for _ in range(50)]
    assert 0.1 < np.mean(literal) < 0.9
    assert all(ours)


def test_a_training_begins_under_cross_entropy() -> None:
    x, w, y = problem(64, 8, 5)
    torch.testing.assert_close(decode_literal(np.full(24, 0.1)).beginning()(x, w, y), F.cross_entropy(x @ w.T, y))
