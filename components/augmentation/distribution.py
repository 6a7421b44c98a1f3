"""The distribution of augmentations that OHL-Auto-Aug learns.

As in Lin et al., ICCV 2019, an image gets an ordered pair of elements.

    K      elements (an operation with a magnitude)     m  pairs in a sample: those that a copy draws from in a trunk
    theta  logits, K + K

In the paper each of 1,296 pairs has a logit of its own, normalised by sigmoids (tests/benchmarks/literal_pairs.py).
Here the two elements of a pair are drawn independently by softmax, Identity is one of the elements, and a copy draws
its images' pairs from m fixed ones: at small scale, 1,296 logits and a new pair for every image leave no signal to
learn.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from components.augmentation.operations import ELEMENTS, OPERATIONS
from components.augmentation.policy import Elements, Pairs, Policy, Vector
from components.settings.augmentation import Augmentation
from components.settings.require import require

SMALLEST_SHARE = 1e-6
"""Smallest share that a logit represents."""
CORRELATION = 0.5
"""Prior correlation (ours) between the effects of one operation's magnitudes, and of one element in the two places."""


def softmax(theta: Vector) -> Vector:
    weights = np.exp(theta - theta.max())
    shares: Vector = weights / weights.sum()
    return shares


def logits(shares: Vector) -> Vector:
    """Return the inverse of `softmax`; shares below `SMALLEST_SHARE` count as that."""
    some = np.clip(shares, SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    some /= some.sum()
    theta: Vector = np.log(some)
    return theta


@dataclass(frozen=True, kw_only=True)
class FactoredPairs:
    """Pairs of independent elements: theta holds K logits for the first element, then K for the second."""

    theta: Float64[np.ndarray, " p"]
    elements: Elements
    pairs: int

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Pairs, ...]:
        columns = [rng.choice(len(p), size=(count, self.pairs), p=p) for p in self.marginals()]
        return as_pairs(np.stack(columns, axis=2))

    def probes(self, count: int, rng: np.random.Generator) -> tuple[Pairs, ...]:
        """Return one sample for every element: the element paired with Identity, in both orders."""
        alone = self.identity()
        return tuple(((k, alone), (alone, k)) for k in range(len(self.elements)))

    def identity(self) -> int:
        """Return Identity's index among the elements; raises ValueError if it is none of them."""
        found = [k for k, element in enumerate(self.elements) if element.operation == "Identity"]
        require(
            found != [], "reward alignment tries every element beside Identity; add it, or use reward leave_one_out"
        )
        return found[0]

    def score_gradient(self, sample: Pairs) -> Float64[np.ndarray, " p"]:
        gradient: Float64[np.ndarray, " p"] = self.features(sample) - np.concatenate(self.marginals())
        return gradient

    def features(self, sample: Pairs) -> Float64[np.ndarray, " p"]:
        """Return each element's share among the sample's first elements, then among its second ones."""
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
        """Move both places alike towards half of the shares each; Identity gets what remains of 1."""
        wanted = shares / max(self.slots, shares.sum())
        wanted[self.identity()] += 1 - wanted.sum()
        mixed = [(1 - rate) * marginal + rate * wanted for marginal in self.marginals()]
        return self.at(np.concatenate([logits(shares) for shares in mixed]))

    def joint(self) -> Float64[np.ndarray, "k k"]:
        """Return the probability of every pair, with the first element in rows."""
        return np.outer(*self.marginals())

    def halves(self) -> tuple[Vector, Vector]:
        """Return the logits of the first and of the second element."""
        kinds = len(self.elements)
        return self.theta[:kinds], self.theta[kinds:]

    def marginals(self) -> tuple[Vector, Vector]:
        """Return the probabilities of the first and of the second element."""
        first, second = map(softmax, self.halves())
        return first, second


def element_prior(elements: Elements) -> Float64[np.ndarray, "k k"]:
    """Return the prior covariance: 1 on the diagonal, `CORRELATION` within one operation, 0 elsewhere."""
    operations = np.array([list(OPERATIONS).index(element.operation) for element in elements])
    same: Float64[np.ndarray, "k k"] = (operations[:, None] == operations).astype(np.float64)
    return CORRELATION * same + (1 - CORRELATION) * np.eye(len(elements))


def as_pairs(drawn: Int64[np.ndarray, "n m 2"]) -> tuple[Pairs, ...]:
    return tuple(tuple((int(first), int(second)) for first, second in pairs) for pairs in drawn)


def first_distribution(settings: Augmentation) -> FactoredPairs:
    """Return the distribution that the search starts from: uniform, except that Identity has the settings' share.

    `pairs_per_trunk: null` gives a sample as many pairs as a copy sees images, as the paper draws a pair for each.
    """
    elements = tuple(element for element in ELEMENTS if settings.cutout or element.operation != "Cutout")
    theta = np.tile(identity_logits(elements, settings.identity_share), 2)
    return FactoredPairs(theta=theta, elements=elements, pairs=settings.pairs_per_trunk or settings.online.images)


def identity_logits(elements: Elements, share: float | None) -> Vector:
    """Return logits that give Identity the share and all other elements equal ones; all 0 if the share is None."""
    if share is None:
        return np.zeros(len(elements))
    odds = share * (len(elements) - 1) / (1 - share)  # Identity's weight over that of another element
    identity = np.array([element.operation == "Identity" for element in elements])
    return np.where(identity, np.log(odds), 0.0)


def policy_of(distribution: FactoredPairs) -> Policy:
    return Policy(distribution.elements, distribution.joint())


def format_pairs(elements: Elements, pairs: Pairs, limit: int = 16) -> str:
    """Write the pairs in one line, `Rotate 10 + Invert | ...`, cut off after `limit` pairs."""
    shown = " | ".join(f"{elements[first]} + {elements[second]}" for first, second in pairs[:limit])
    return shown if len(pairs) <= limit else f"{shown} | ... {len(pairs) - limit} more"
