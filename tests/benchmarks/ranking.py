"""How well one list of numbers orders another: Kendall's tau with an interval.

x, y  the two lists          n  their length
Q     [i, j]: 1 if x and y order i and j alike, -1 if not, 0 if either ties
C     of each i, the sum of its Q
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 1.96
"""Standard errors either side: 95 %."""


@dataclass(frozen=True, kw_only=True)
class Tau:
    """tau-b and its 95 % interval."""

    tau: float
    low: float
    high: float
    n: int


def kendall(x: Sequence[float], y: Sequence[float]) -> Tau:
    """tau-b (ties neither help nor harm) with Noether's distribution-free interval (Hollander, Wolfe & Chicken,
    Nonparametric Statistical Methods, 2014, section 8.3), stretched as tau-b stretches tau-a.

    0 with the widest interval where one list does not order anything.
    """
    dx, dy = (np.sign(np.subtract.outer(each, each)) for each in (np.asarray(x, float), np.asarray(y, float)))
    n = len(dx)
    ordered = float(np.sqrt(np.abs(dx).sum() * np.abs(dy).sum()))
    if n < 3 or ordered == 0:
        return Tau(tau=0.0, low=-1.0, high=1.0, n=n)
    each = (dx * dy).sum(axis=1)
    pairs = n * (n - 1)
    plain = each.sum() / pairs
    between = 2 * (n - 2) / (n * (n - 1) ** 2) * float(((each - each.mean()) ** 2).sum())
    error = float(np.sqrt(2 / pairs * (between + 1 - plain**2)))
    stretch = pairs / ordered
    tau = float(plain * stretch)
    return Tau(
        tau=tau,
        low=max(-1.0, tau - CONFIDENCE * error * stretch),
        high=min(1.0, tau + CONFIDENCE * error * stretch),
        n=n,
    )
