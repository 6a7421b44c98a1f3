"""A Gaussian `Distribution` for the online engine, over hyper-parameters that are unconstrained real numbers.

theta  what is learned: the mean      sigma  standard deviation, fixed      eps  standard normal, one for two copies
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

Sample = tuple[float, ...]
"""One draw from the Gaussian (p numbers)."""


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """The normal distribution N(theta, sigma^2 I).

    Samples come in antithetic pairs theta +- sigma eps, so that a difference of two rewards belongs to one direction.
    """

    theta: Float64[np.ndarray, " p"]
    sigma: float

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Sample, ...]:
        """Draw `count` samples, an even number; samples 2 i and 2 i + 1 lie opposite each other around theta."""
        assert count % 2 == 0, f"{count} copies do not make pairs"
        steps = self.sigma * rng.standard_normal((count // 2, len(self.theta)))
        return tuple(tuple((self.theta + sign * step).tolist()) for step in steps for sign in (1, -1))

    def probes(self, count: int, rng: np.random.Generator) -> tuple[Sample, ...]:
        return self.sample(count, rng)

    @property
    def slots(self) -> int:
        return 1

    def toward(self, shares: Float64[np.ndarray, " n"], rate: float) -> "Gaussian":
        raise ValueError("controller matching needs the same samples in every trunk, a Gaussian has none; use bandit")

    def score_gradient(self, sample: Sample) -> Float64[np.ndarray, " p"]:
        gradient: Float64[np.ndarray, " p"] = (np.asarray(sample) - self.theta) / self.sigma**2
        return gradient

    def features(self, sample: Sample) -> Float64[np.ndarray, " p"]:
        """Return how far each number of the sample lies from the mean, in standard deviations."""
        offset: Float64[np.ndarray, " p"] = (np.asarray(sample) - self.theta) / self.sigma
        return offset

    def prior(self) -> Float64[np.ndarray, "p p"]:
        return np.eye(len(self.theta))

    def at(self, theta: Float64[np.ndarray, " p"]) -> "Gaussian":
        return replace(self, theta=theta)
