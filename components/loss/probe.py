"""Linear probes: which classifier would training under each loss leave on top of the features that a network has now?

Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016, for the name; that a
classifier trained anew on frozen features shows what a loss does to it, Kang et al., "Decoupling representation and
classifier for long-tailed recognition", ICLR 2020.

A loss acts on the classifier first, and there a whole training costs next to nothing: the network runs once for all
losses. n images, d features, k classes, l losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from components.loss.family import Member
from components.training.devices import one_thread
from components.training.metrics import METRICS

STEPS = 50
"""Of Adam, on all images at once (ours), until wrong labels begin to be learned by heart; 100 found losses as good."""
RATE = 0.3
"""Learning rate, for features of mean length 1 (ours)."""
FIRST_DEVIATION = 1e-3
"""Deviation of the first weights: as good as 0, where cosines are not defined."""
STACK_SIZE = 8
"""Classifiers trained in one stack, by the index of their samples, whatever the workers: their intermediate values stay
in the cache."""


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """What all classifiers of a trunk train on and are scored on; features of mean length 1 over training images."""

    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    val_features: Float[Tensor, "v d"]
    val_labels: Int64[Tensor, " v"]
    first: Float[Tensor, "k d"]
    """Weights that every classifier starts with."""


def probe_data(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    val_features: Float[Tensor, "v d"],
    val_labels: Int64[Tensor, " v"],
    *,
    classes: int,
    rng: torch.Generator,
) -> ProbeData:
    """Features as the network gives them. Where all are 0 they stay so."""
    length = torch.linalg.vector_norm(features, dim=1).mean().clamp_min(torch.finfo(features.dtype).tiny)
    return ProbeData(
        features=features / length,
        labels=labels,
        val_features=val_features / length,
        val_labels=val_labels,
        first=FIRST_DEVIATION * torch.randn(classes, features.shape[1], generator=rng),
    )


def probe_scores(on: ProbeData, losses: Sequence[Member], metric: str) -> list[float]:
    """The metric on val of a classifier trained under each loss, on one thread; nan where the loss was no finite number
    at some step.

    The losses are alike but for their buffers: they are trained in one stack.
    """
    score = METRICS[metric]
    with one_thread():
        weights, finite = train_classifiers(on, losses)
        logits = on.val_features @ weights.mT  # l v k
        return [
            score(each, on.val_labels) if sound else float("nan")
            for each, sound in zip(logits, finite.tolist(), strict=True)
        ]


def train_classifiers(on: ProbeData, losses: Sequence[Member]) -> tuple[Float[Tensor, "l k d"], Bool[Tensor, " l"]]:
    """The trained classifiers, and whether each loss was finite at every step (log of a negative tau has no value, but
    a gradient)."""
    alike = {(type(each), each.scale, each.label_smoothing, each.class_logits is None) for each in losses}
    assert len(alike) == 1, "what is no buffer is the first loss's for the whole stack"
    _, buffers = stack_module_state(list(losses))

    def loss(of_one: dict[str, Tensor], weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
        return cast(Tensor, functional_call(losses[0], of_one, (on.features, weight, on.labels)))

    weights = on.first.expand(len(losses), *on.first.shape).clone().requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=RATE)
    finite = torch.ones(len(losses), dtype=torch.bool)
    for _ in range(STEPS):
        values = vmap(loss)(buffers, weights)
        finite &= torch.isfinite(values)
        optimiser.zero_grad(set_to_none=True)
        values.sum().backward()  # every loss has weights of its own
        optimiser.step()
    return weights.detach(), finite & torch.isfinite(weights).flatten(1).all(dim=1)
