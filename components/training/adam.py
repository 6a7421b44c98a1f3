"""Adam as an immutable value (Kingma and Ba, ICLR 2015), and the advantages of REINFORCE that it ascends."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float64

A = TypeVar("A", bound="Adam")

BETAS = (0.5, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Gradient ascent by Adam (Kingma and Ba, ICLR 2015), an immutable value: every step returns the next one."""

    rate: float
    steps: int = 0
    first: Float64[np.ndarray, "*p"] | float = 0.0
    second: Float64[np.ndarray, "*p"] | float = 0.0

    def step(
        self: A, theta: Float64[np.ndarray, "*p"], gradient: Float64[np.ndarray, "*p"]
    ) -> tuple[A, Float64[np.ndarray, "*p"]]:
        steps = self.steps + 1
        first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient**2
        size = np.sqrt(second / (1 - BETAS[1] ** steps)) + EPSILON
        moved = theta + self.rate * first / (1 - BETAS[0] ** steps) / size
        return replace(self, steps=steps, first=first, second=second), moved


def informative(rewards: Float64[np.ndarray, " n"]) -> bool:
    """Whether at least two rewards differ: without a signal, Adam's momentum alone would move theta."""
    return len(rewards) >= 2 and bool(np.ptp(rewards) > 0)


def standardised(rewards: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return the rewards shifted and scaled to mean 0 and (unbiased) sample variance 1."""
    standard: Float64[np.ndarray, " n"] = (rewards - rewards.mean()) / (rewards.std(ddof=1) + EPSILON)
    return standard


def advantages(rewards: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return (R_n - baseline) / std(R); the baseline is the mean of all copies, for N <= 4 that of the other copies.

    With a fixed N the second is N / (N - 1) times the first, which Adam's normalisation cancels.
    """
    count = len(rewards)
    correction = count / (count - 1) if count <= 4 else 1.0
    standard: Float64[np.ndarray, " n"] = (rewards - rewards.mean()) / (rewards.std() + EPSILON)
    return standard * correction
