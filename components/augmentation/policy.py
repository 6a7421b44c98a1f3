"""The policy that the search finds: pairs of elements with probabilities, applied as a batched augmentation.

`AugmentPairs` draws the pairs of a batch; operations.py makes the pixels.

K  elements (an operation with a magnitude)    m  pairs that a batch's images draw from    b  images
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from components.augmentation.operations import Element, apply_elements, named_element
from components.settings.require import require

Elements = tuple[Element, ...]
Pairs = tuple[tuple[int, int], ...]
"""A sample of the distribution: m pairs of indices into the elements."""
Vector = Float64[np.ndarray, " k"]

DRAWS = 7
"""Number of uniform numbers drawn for an image: one for its pair, three for each element (sign and place)."""


@dataclass(frozen=True)
class AugmentPairs:
    """An `Augment` that draws a pair for each image by weight, then applies the pair's two elements in turn.

    The number of random numbers does not depend on what is drawn, so that copies with different samples and the same
    generator differ by the sample alone.
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
    """Return the augmentation that draws from the pairs by weights that sum to 1, or evenly without weights."""
    shares = np.full(len(pairs), 1 / len(pairs)) if weights is None else weights
    return AugmentPairs(elements, torch.tensor(pairs), torch.from_numpy(np.cumsum(shares)))


# --- the artifact


@dataclass(frozen=True)
class Policy:
    """A learned distribution of pairs, p(first, second), with the first element in rows."""

    elements: Elements
    joint: Float64[np.ndarray, "k k"]

    def augment(self) -> AugmentPairs:
        """Return the augmentation that draws a pair for every image from the distribution."""
        kinds = range(len(self.elements))
        return augment_pairs(self.elements, [(i, j) for i in kinds for j in kinds], self.joint.ravel())

    def entropy(self) -> float:
        """Return the entropy of the pair in bits; the uniform distribution over K^2 pairs has 2 log2 K."""
        p = self.joint[self.joint > 0]
        return float(-(p * np.log2(p)).sum())

    def element_shares(self) -> dict[str, Vector]:
        """Return the marginal distributions of the first and of the second element."""
        return {"first": self.joint.sum(axis=1), "second": self.joint.sum(axis=0)}

    def operation_shares(self) -> dict[str, float]:
        """Return each operation's expected share among the two that an image gets, the largest first."""
        first, second = self.element_shares().values()
        each = (first + second) / 2
        shares: dict[str, float] = {}
        for element, share in zip(self.elements, each.tolist(), strict=True):
            shares[element.operation] = shares.get(element.operation, 0.0) + share
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: a summary, then every pair, the most probable first."""
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
        """Read a policy from `elements` and `pairs` of `to_json`. Raises `ValueError` if they are no distribution."""
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
