"""The distribution of augmentations that OHL-Auto-Aug learns.

Lin et al., ICCV 2019: a pair of elements, in order.

    K      elements (an operation with a magnitude)     m  pairs in a sample: what one copy commits to for a trunk
    theta  logits, K + K

Unlike the paper, whose 1,296 pairs have a logit each, sigmoid-normalised (tests/benchmarks/literal_pairs.py): a pair's
elements are drawn independently, by softmax, Identity is one of them, and a copy draws its images' pairs from few (m)
committed ones, because at small scale 1,296 logits and a fresh pair an image leave nothing to learn from.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from components.augmentation.operations import ELEMENTS, OPERATIONS
from components.augmentation.policy import Elements, Pairs, Policy, Vector
from components.settings.augmentation import Augmentation
from components.settings.require import require

SMALLEST_SHARE = 1e-6
"""Least share that a logit stands for."""
CORRELATION = 0.5
"""Prior correlation (ours) of the effects of an operation's magnitudes, and of an element in the two places."""


def softmax(theta: Vector) -> Vector:
    weights = np.exp(theta - theta.max())
    shares: Vector = weights / weights.sum()
    return shares


def logits(shares: Vector) -> Vector:
    """The inverse of `softmax`, for shares above SMALLEST_SHARE."""
    some = np.clip(shares, SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    some /= some.sum()
    theta: Vector = np.log(some)
    return theta


@dataclass(frozen=True, kw_only=True)
class FactoredPairs:
    """First and second element independent: theta holds K logits for the first, then K for the second."""

    theta: Float64[np.ndarray, " p"]
    elements: Elements
    pairs: int

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Pairs, ...]:
        columns = [rng.choice(len(p), size=(count, self.pairs), p=p) for p in self.marginals()]
        return as_pairs(np.stack(columns, axis=2))

    def probes(self, count: int, rng: np.random.Generator) -> tuple[Pairs, ...]:
        """Every element alone, beside Identity in both orders."""
        alone = self.identity()
        return tuple(((k, alone), (alone, k)) for k in range(len(self.elements)))

    def identity(self) -> int:
        """Where Identity stands."""
        found = [k for k, element in enumerate(self.elements) if element.operation == "Identity"]
        require(
            found != [], "reward alignment tries every element beside Identity; add it, or use reward leave_one_out"
        )
        return found[0]

    def score_gradient(self, sample: Pairs) -> Float64[np.ndarray, " p"]:
        gradient: Float64[np.ndarray, " p"] = self.features(sample) - np.concatenate(self.marginals())
        return gradient

    def features(self, sample: Pairs) -> Float64[np.ndarray, " p"]:
        """Share of each element among the sample's first ones, then among its second ones."""
        kinds = len(self.elements)
        columns = np.array(sample).T
        return np.concatenate([np.bincount(column, minlength=kinds) / len(sample) for column in columns])

    def prior(self) -> Float64[np.ndarray, "p p"]:
        return np.kron(np.array([[1, CORRELATION], [CORRELATION, 1]]), element_prior(self.elements))

    def at(self, theta: Float64[np.ndarray, " p"]) -> "FactoredPairs":
        return replace(self, theta=theta)

    @property
    def slots(self) -> int:
        return 2

    def toward(self, shares: Float64[np.ndarray, " k"], rate: float) -> "FactoredPairs":
        """Both places alike, each with half of the shares."""
        wanted = shares / max(self.slots, shares.sum())
        wanted[self.identity()] += 1 - wanted.sum()
        mixed = [(1 - rate) * marginal + rate * wanted for marginal in self.marginals()]
        return self.at(np.concatenate([logits(shares) for shares in mixed]))

    def joint(self) -> Float64[np.ndarray, "k k"]:
        return np.outer(*self.marginals())

    def halves(self) -> tuple[Vector, Vector]:
        kinds = len(self.elements)
        return self.theta[:kinds], self.theta[kinds:]

    def marginals(self) -> tuple[Vector, Vector]:
        first, second = map(softmax, self.halves())
        return first, second


def element_prior(elements: Elements) -> Float64[np.ndarray, "k k"]:
    """1 on the diagonal, `CORRELATION` between the magnitudes of one operation, 0 elsewhere."""
    operations = np.array([list(OPERATIONS).index(element.operation) for element in elements])
    same: Float64[np.ndarray, "k k"] = (operations[:, None] == operations).astype(np.float64)
    return CORRELATION * same + (1 - CORRELATION) * np.eye(len(elements))


def as_pairs(drawn: Int64[np.ndarray, "n m 2"]) -> tuple[Pairs, ...]:
    return tuple(tuple((int(first), int(second)) for first, second in pairs) for pairs in drawn)


def first_distribution(settings: Augmentation) -> FactoredPairs:
    """Where the search starts: uniform over the elements that the settings name, but for Identity's own share.

    `pairs_per_trunk: null` gives a sample as many pairs as a copy trains on images (the paper's fresh pair an image).
    """
    elements = tuple(element for element in ELEMENTS if settings.cutout or element.operation != "Cutout")
    theta = np.tile(identity_logits(elements, settings.identity_share), 2)
    return FactoredPairs(theta=theta, elements=elements, pairs=settings.pairs_per_trunk or settings.online.images)


def identity_logits(elements: Elements, share: float | None) -> Vector:
    """Logits that give Identity the share and all other elements the same; 0 for all where there is no share."""
    if share is None:
        return np.zeros(len(elements))
    odds = share * (len(elements) - 1) / (1 - share)  # Identity's weight over that of another element
    identity = np.array([element.operation == "Identity" for element in elements])
    return np.where(identity, np.log(odds), 0.0)


def policy_of(distribution: FactoredPairs) -> Policy:
    return Policy(distribution.elements, distribution.joint())


def format_pairs(elements: Elements, pairs: Pairs, limit: int = 16) -> str:
    """One line of text: `Rotate 10 + Invert | ...`, cut off after `limit` pairs."""
    shown = " | ".join(f"{elements[first]} + {elements[second]}" for first, second in pairs[:limit])
    return shown if len(pairs) <= limit else f"{shown} | ... {len(pairs) - limit} more"
