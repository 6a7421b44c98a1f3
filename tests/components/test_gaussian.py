"""The Gaussian draws opposite pairs with the spread it says, and knows the gradient of its log density."""

import numpy as np
import pytest

from components.online.controllers import Distribution
from components.online.gaussian import Gaussian


def test_samples_come_in_pairs_around_theta_with_the_given_spread() -> None:
    theta = np.linspace(-1, 1, 2000)
    drawn = np.array(Gaussian(theta=theta, sigma=0.2).sample(6, np.random.default_rng(0)))
    np.testing.assert_allclose(drawn[0::2] + drawn[1::2], 2 * np.tile(theta, (3, 1)), atol=1e-12)
    assert (drawn - theta).std() == pytest.approx(0.2, rel=0.03)
    assert np.abs(np.corrcoef(drawn[0::2] - theta)[np.triu_indices(3, 1)]).max() < 0.1


def test_score_gradient_is_the_derivative_of_the_log_density() -> None:
    gaussian = Gaussian(theta=np.array([0.3, -0.2]), sigma=0.2)
    (sample, _) = gaussian.sample(2, np.random.default_rng(0))

    def log_density(theta: np.ndarray) -> float:
        return float(-0.5 * np.sum((np.array(sample) - theta) ** 2) / 0.2**2)

    for i in range(2):
        step = np.eye(2)[i] * 1e-6
        numeric = (log_density(gaussian.theta + step) - log_density(gaussian.theta - step)) / 2e-6
        assert gaussian.score_gradient(sample)[i] == pytest.approx(numeric, rel=1e-5)
    assert isinstance(gaussian, Distribution)
