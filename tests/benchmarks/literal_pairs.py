"""The paper's own distributions of augmentations, as controls: sigmoid-normalised, and one logit a pair.

Lin et al., ICCV 2019: a pair of elements, in order; p_theta(k) = sigmoid(theta_k) / sum_j sigmoid(theta_j). They learn
by REINFORCE.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from components.augmentation.distribution import FactoredPairs, Vector, as_pairs, element_prior
from components.augmentation.operations import ELEMENTS
from components.augmentation.policy import Elements, Pairs

ABSENT = {"Identity", "Cutout"}
"""Operations that the paper's 36 elements do not have."""
NO_MATCH = "controller matching is for softmax; use reinforce"


def sigmoid(theta: Vector) -> Vector:
    weights: Vector = 0.5 * (1 + np.tanh(0.5 * theta))
    return weights


def normalised(theta: Vector) -> Vector:
    weights = sigmoid(theta)
    shares: Vector = weights / weights.sum()
    return shares


def log_gradient(theta: Vector, shares: Vector) -> Vector:
    """Gradient of the mean log probability of draws of which `shares` fell on each index."""
    gradient: Vector = (1 - sigmoid(theta)) * (shares - normalised(theta))
    return gradient


@dataclass(frozen=True, kw_only=True)
class SigmoidPairs(FactoredPairs):
    """Our space, normalised as in the paper: an element has at most about twice the share that it starts with."""

    def marginals(self) -> tuple[Vector, Vector]:
        first, second = map(normalised, self.halves())
        return first, second

    def score_gradient(self, sample: Pairs) -> Float64[np.ndarray, " p"]:
        return np.concatenate(list(map(log_gradient, self.halves(), np.split(self.features(sample), 2))))

    def toward(self, shares: Float64[np.ndarray, " k"], rate: float) -> "SigmoidPairs":
        raise ValueError(NO_MATCH)


@dataclass(frozen=True, kw_only=True)
class LiteralPairs:
    """One logit a pair, as in the paper; theta is the K x K table, row by row (the first element is the row)."""

    theta: Float64[np.ndarray, " p"]
    elements: Elements
    pairs: int

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Pairs, ...]:
        p = normalised(self.theta)
        drawn = rng.choice(len(p), size=(count, self.pairs), p=p)
        return as_pairs(np.stack(np.divmod(drawn, len(self.elements)), axis=2))

    def probes(self, count: int, rng: np.random.Generator) -> tuple[Pairs, ...]:
        """Every pair."""
        kinds = range(len(self.elements))
        return tuple(((i, j),) for i in kinds for j in kinds)

    def score_gradient(self, sample: Pairs) -> Float64[np.ndarray, " p"]:
        return log_gradient(self.theta, self.features(sample))

    def features(self, sample: Pairs) -> Float64[np.ndarray, " p"]:
        """Share of each pair."""
        first, second = np.array(sample).T
        counts = np.bincount(first * len(self.elements) + second, minlength=len(self.theta))
        return counts / len(sample)

    def prior(self) -> Float64[np.ndarray, "p p"]:
        """Pairs are alike as far as their elements are."""
        each = element_prior(self.elements)
        return np.kron(each, each)

    def at(self, theta: Float64[np.ndarray, " p"]) -> "LiteralPairs":
        return replace(self, theta=theta)

    @property
    def slots(self) -> int:
        return 1

    def toward(self, shares: Float64[np.ndarray, " p"], rate: float) -> "LiteralPairs":
        raise ValueError(NO_MATCH)

    def joint(self) -> Float64[np.ndarray, "k k"]:
        return normalised(self.theta).reshape(len(self.elements), -1)


def first_literal(pairs: int) -> LiteralPairs:
    """Uniform over the paper's space."""
    elements = tuple(element for element in ELEMENTS if element.operation not in ABSENT)
    return LiteralPairs(theta=np.zeros(len(elements) ** 2), elements=elements, pairs=pairs)
