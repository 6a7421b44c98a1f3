"""The distribution of augmentations that OHL-Auto-Aug learns, and the policy that comes out of it.

Lin et al., ICCV 2019: a pair of elements, in order; p_theta(k) = sigmoid(theta_k) / sum_j sigmoid(theta_j).

    K      elements (an operation with a magnitude)     m  pairs in a sample: what one copy commits to for a trunk
    theta  logits: `FactoredPairs` K + K, `LiteralPairs` K x K    b  images

Unlike the paper (`literal`): `factored` draws a pair's elements independently from K + K logits and holds Identity,
and a copy draws its images' pairs from few (m) committed ones, because at small scale 1,296 logits and a fresh pair an
image leave nothing to learn from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from components.augmentation.operations import ELEMENTS, OPERATIONS, Element, apply_elements, named_element
from components.settings.augmentation import Augmentation
from components.settings.require import require

Elements = tuple[Element, ...]
Pairs = tuple[tuple[int, int], ...]
"""m pairs of indices into the elements: a sample of the distribution."""
Vector = Float64[np.ndarray, " k"]

DRAWS = 7
"""Uniform numbers an image takes: one for its pair, three for each element (sign and place)."""
EVER = 1e-6
"""Least share that a logit stands for."""
ALIKE = 0.5
"""Prior correlation (ours) of the effects of an operation's magnitudes, and of an element in the two places."""


# --- from logits to probabilities; `slopes` is d log f(theta_k) / d theta_k for p_k proportional to f(theta_k)


def sigmoid(theta: Vector) -> Vector:
    weights: Vector = 0.5 * (1 + np.tanh(0.5 * theta))
    return weights


def exponential(theta: Vector) -> Vector:
    weights: Vector = np.exp(theta - theta.max())
    return weights


def sigmoid_slopes(theta: Vector) -> Vector:
    return 1 - sigmoid(theta)


WEIGHTS: dict[str, Callable[[Vector], Vector]] = {"sigmoid": sigmoid, "softmax": exponential}
SLOPES: dict[str, Callable[[Vector], Vector]] = {"sigmoid": sigmoid_slopes, "softmax": np.ones_like}


def probabilities(theta: Vector, normalisation: str) -> Vector:
    weights = WEIGHTS[normalisation](theta)
    shares: Vector = weights / weights.sum()
    return shares


def logits(shares: Vector, normalisation: str) -> Vector:
    """The inverse of `probabilities`, for shares above EVER."""
    some = np.clip(shares, EVER, 1 - EVER)
    some /= some.sum()
    theta: Vector = np.log(some) if normalisation == "softmax" else np.log(some / (1 - some))
    return theta


def log_gradient(theta: Vector, shares: Vector, normalisation: str) -> Vector:
    """Gradient of the mean log probability of draws of which `shares` fell on each index."""
    gradient: Vector = SLOPES[normalisation](theta) * (shares - probabilities(theta, normalisation))
    return gradient


# --- the distributions: each a `components.online.controllers.Distribution[Pairs]`


@dataclass(frozen=True, kw_only=True)
class FactoredPairs:
    """First and second element independent: theta holds K logits for the first, then K for the second."""

    theta: Float64[np.ndarray, " p"]
    elements: Elements
    pairs: int
    normalisation: str

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Pairs, ...]:
        columns = [rng.choice(len(p), size=(count, self.pairs), p=p) for p in self.marginals()]
        return committed(np.stack(columns, axis=2))

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
        halves = zip(self.halves(), np.split(self.features(sample), 2), strict=True)
        return np.concatenate([log_gradient(theta, shares, self.normalisation) for theta, shares in halves])

    def features(self, sample: Pairs) -> Float64[np.ndarray, " p"]:
        """Share of each element among the sample's first ones, then among its second ones."""
        kinds = len(self.elements)
        columns = np.array(sample).T
        return np.concatenate([np.bincount(column, minlength=kinds) / len(sample) for column in columns])

    def prior(self) -> Float64[np.ndarray, "p p"]:
        return np.kron(np.array([[1, ALIKE], [ALIKE, 1]]), element_prior(self.elements))

    def at(self, theta: Float64[np.ndarray, " p"]) -> "FactoredPairs":
        return replace(self, theta=theta)

    @property
    def places(self) -> int:
        return 2

    def toward(self, shares: Float64[np.ndarray, " k"], rate: float) -> "FactoredPairs":
        """Both places alike, each with half of the shares."""
        wanted = shares / max(self.places, shares.sum())
        wanted[self.identity()] += 1 - wanted.sum()
        mixed = [(1 - rate) * marginal + rate * wanted for marginal in self.marginals()]
        return self.at(np.concatenate([logits(shares, self.normalisation) for shares in mixed]))

    def joint(self) -> Float64[np.ndarray, "k k"]:
        return np.outer(*self.marginals())

    def halves(self) -> tuple[Vector, Vector]:
        kinds = len(self.elements)
        return self.theta[:kinds], self.theta[kinds:]

    def marginals(self) -> tuple[Vector, Vector]:
        first, second = (probabilities(theta, self.normalisation) for theta in self.halves())
        return first, second


@dataclass(frozen=True, kw_only=True)
class LiteralPairs:
    """One logit a pair, as in the paper; theta is the K x K table, row by row (the first element is the row)."""

    theta: Float64[np.ndarray, " p"]
    elements: Elements
    pairs: int
    normalisation: str

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Pairs, ...]:
        p = probabilities(self.theta, self.normalisation)
        drawn = rng.choice(len(p), size=(count, self.pairs), p=p)
        return committed(np.stack(np.divmod(drawn, len(self.elements)), axis=2))

    def probes(self, count: int, rng: np.random.Generator) -> tuple[Pairs, ...]:
        """Every pair."""
        kinds = range(len(self.elements))
        return tuple(((i, j),) for i in kinds for j in kinds)

    def score_gradient(self, sample: Pairs) -> Float64[np.ndarray, " p"]:
        return log_gradient(self.theta, self.features(sample), self.normalisation)

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
    def places(self) -> int:
        return 1

    def toward(self, shares: Float64[np.ndarray, " p"], rate: float) -> "LiteralPairs":
        """Every pair by its share; there is no pair that leaves an image as it is. Without any share it stays."""
        if not shares.any():
            return self
        wanted = shares / max(EVER, shares.sum())
        mixed = (1 - rate) * probabilities(self.theta, self.normalisation) + rate * wanted
        return self.at(logits(mixed, self.normalisation))

    def joint(self) -> Float64[np.ndarray, "k k"]:
        return probabilities(self.theta, self.normalisation).reshape(len(self.elements), -1)


def element_prior(elements: Elements) -> Float64[np.ndarray, "k k"]:
    """1 on the diagonal, `ALIKE` between the magnitudes of one operation, 0 elsewhere."""
    operations = np.array([list(OPERATIONS).index(element.operation) for element in elements])
    same: Float64[np.ndarray, "k k"] = (operations[:, None] == operations).astype(np.float64)
    return ALIKE * same + (1 - ALIKE) * np.eye(len(elements))


def committed(drawn: Int64[np.ndarray, "n m 2"]) -> tuple[Pairs, ...]:
    return tuple(tuple((int(first), int(second)) for first, second in pairs) for pairs in drawn)


def first_distribution(settings: Augmentation) -> FactoredPairs | LiteralPairs:
    """Where the search starts: uniform over the elements that the settings name, but for Identity's own share.

    `pairs_per_trunk: null` gives a sample as many pairs as a copy trains on images (the paper's fresh pair an image).
    `literal` is the paper's space: 36 elements, Identity and Cutout not among them, whatever `cutout` says.
    """
    left_out = {"Identity", "Cutout"} if settings.settings == "literal" else set() if settings.cutout else {"Cutout"}
    elements = tuple(element for element in ELEMENTS if element.operation not in left_out)
    pairs = settings.pairs_per_trunk or settings.online.images
    kind: type[FactoredPairs] | type[LiteralPairs] = FactoredPairs if settings.settings == "factored" else LiteralPairs
    if settings.settings == "literal":
        theta = np.zeros(len(elements) ** 2)
    else:
        theta = np.tile(identity_logits(elements, settings.identity_share, settings.normalisation), 2)
    return kind(theta=theta, elements=elements, pairs=pairs, normalisation=settings.normalisation)


def identity_logits(elements: Elements, share: float | None, normalisation: str) -> Vector:
    """Logits that give Identity the share and all other elements the same; 0 for all where there is no share."""
    if share is None:
        return np.zeros(len(elements))
    odds = share * (len(elements) - 1) / (1 - share)  # Identity's weight over that of another element
    identity = np.array([element.operation == "Identity" for element in elements])
    if normalisation == "softmax":
        return np.where(identity, np.log(odds), 0.0)
    larger = 0.5  # sigmoid(0): both logits stay where the sigmoid has a slope
    weights = larger * np.where(identity, min(1.0, odds), min(1.0, 1 / odds))
    return np.asarray(np.log(weights / (1 - weights)))


# --- applying


@dataclass(frozen=True)
class AugmentPairs:
    """An `Augment`: each image draws one of the pairs by its weight, then goes through its two elements in turn.

    Every image takes the same number of random numbers whatever is drawn, so that copies with different samples and
    the same generator differ by the sample alone.
    """

    elements: Elements
    pairs: Int64[Tensor, "m 2"]
    edges: Float64[Tensor, " m"]
    """Cumulative weights of the pairs; the last is 1."""

    def __call__(self, images: UInt8[Tensor, "b c h w"], rng: torch.Generator) -> UInt8[Tensor, "b c h w"]:
        uniforms = torch.rand(len(images), DRAWS, dtype=torch.float64, generator=rng, device=rng.device)
        drawn = torch.searchsorted(self.edges, uniforms[:, 0].cpu().contiguous(), right=True)
        chosen = self.pairs[drawn.clamp(max=len(self.pairs) - 1)].to(images.device)
        places = uniforms[:, 1:].to(images.device)
        once = apply_elements(images, self.elements, chosen[:, 0], places[:, :3])
        return apply_elements(once, self.elements, chosen[:, 1], places[:, 3:])


def augment_pairs(elements: Elements, pairs: Sequence[tuple[int, int]], weights: Vector | None = None) -> AugmentPairs:
    """Draw from the pairs by weight (which sum to 1), or evenly."""
    shares = np.full(len(pairs), 1 / len(pairs)) if weights is None else weights
    return AugmentPairs(elements, torch.tensor(pairs), torch.from_numpy(np.cumsum(shares)))


# --- the artifact


@dataclass(frozen=True)
class Policy:
    """A learned distribution of pairs: p(first, second), rows the first element."""

    elements: Elements
    joint: Float64[np.ndarray, "k k"]

    def augment(self) -> AugmentPairs:
        """Draw a pair for every image from the distribution."""
        kinds = range(len(self.elements))
        return augment_pairs(self.elements, [(i, j) for i in kinds for j in kinds], self.joint.ravel())

    def entropy(self) -> float:
        """Of the pair, in bits; the uniform distribution over K^2 pairs has 2 log2 K."""
        p = self.joint[self.joint > 0]
        return float(-(p * np.log2(p)).sum())

    def element_shares(self) -> dict[str, Vector]:
        """The distribution of the first and of the second element."""
        return {"first": self.joint.sum(axis=1), "second": self.joint.sum(axis=0)}

    def operation_shares(self) -> dict[str, float]:
        """Expected share of each operation among the two that an image gets, the largest first."""
        first, second = self.element_shares().values()
        each = (first + second) / 2
        shares: dict[str, float] = {}
        for element, share in zip(self.elements, each.tolist(), strict=True):
            shares[element.operation] = shares.get(element.operation, 0.0) + share
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict[str, Any]:
        """JSON values: a summary, then every pair, the most probable first."""
        names = [str(element) for element in self.elements]
        flat = self.joint.ravel().tolist()
        order = sorted(range(len(flat)), key=lambda k: -flat[k])
        rows = [(*divmod(k, len(names)), flat[k]) for k in order]
        return {
            "elements": names,
            "entropy_bits": self.entropy(),
            "entropy_bits_uniform": float(2 * np.log2(len(names))),
            "operations": [{"operation": name, "share": share} for name, share in self.operation_shares().items()],
            "pairs": [{"first": names[i], "second": names[j], "probability": p} for i, j, p in rows],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Policy":
        """The inverse of `to_json`; only `elements` and `pairs` are read. Raises `ValueError` for no distribution."""
        try:
            elements = tuple(named_element(name) for name in record["elements"])
            row = {str(element): k for k, element in enumerate(elements)}
            joint = np.zeros((len(row), len(row)))
            for pair in record["pairs"]:
                joint[row[pair["first"]], row[pair["second"]]] = pair["probability"]
        except KeyError as missing:
            told = f"the policy has no {missing}: it needs `elements`, and `pairs` of them with their probabilities"
            raise ValueError(told) from None
        require(bool((joint >= 0).all()), "the policy has a negative probability; make all 0 or more")
        total = joint.sum()
        require(bool(np.isclose(total, 1.0)), f"the policy's probabilities sum to {total:g}; make them sum to 1")
        return cls(elements, joint)


def policy_of(distribution: FactoredPairs | LiteralPairs) -> Policy:
    return Policy(distribution.elements, distribution.joint())


def format_pairs(elements: Elements, pairs: Pairs, limit: int = 16) -> str:
    """One line of text: `Rotate 10 + Invert | ...`, cut off after `limit` pairs."""
    shown = " | ".join(f"{elements[first]} + {elements[second]}" for first, second in pairs[:limit])
    return shown if len(pairs) <= limit else f"{shown} | ... {len(pairs) - limit} more"
