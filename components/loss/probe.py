"""Linear probes: classifiers that are trained under each loss on the frozen features of one network.

The name is from Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016. Kang et
al., "Decoupling representation and classifier for long-tailed recognition", ICLR 2020, show that a new classifier on
frozen features tells what a loss does to it.

A loss acts on the classifier first, and training it alone is cheap: the network runs once for all losses.

    n  images     d  features     k  classes     l  losses
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
"""Adam's steps, each on all images (ours): later, wrong labels begin to be memorised; 100 found losses as good."""
RATE = 0.3
"""Adam's learning rate, for features of mean length 1 (ours)."""
FIRST_DEVIATION = 1e-3
"""Standard deviation of the first weights: nearly 0, but at 0 itself cosines are not defined."""
STACK_SIZE = 8
"""Number of classifiers trained in one stack, whose intermediate values then stay in the cache. Stacks follow the order
of samples, not the number of workers."""


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """The data that all classifiers of a trunk train and are scored on; training features have mean length 1."""

    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    val_features: Float[Tensor, "v d"]
    val_labels: Int64[Tensor, " v"]
    first: Float[Tensor, "k d"]
    """The weights that every classifier starts with."""


def probe_data(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    val_features: Float[Tensor, "v d"],
    val_labels: Int64[Tensor, " v"],
    *,
    classes: int,
    rng: torch.Generator,
) -> ProbeData:
    """Return the data with features scaled to mean length 1; features that are all 0 stay 0."""
    length = torch.linalg.vector_norm(features, dim=1).mean().clamp_min(torch.finfo(features.dtype).tiny)
    return ProbeData(
        features=features / length,
        labels=labels,
        val_features=val_features / length,
        val_labels=val_labels,
        first=FIRST_DEVIATION * torch.randn(classes, features.shape[1], generator=rng),
    )


def probe_scores(on: ProbeData, losses: Sequence[Member], metric: str) -> list[float]:
    """Return the metric on val of a classifier trained under each loss; nan if the loss was not finite at some step.

    The losses may differ in their buffers only: they are trained in one stack, on one thread.
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
    """Train a classifier under each loss; return the weights, and whether each loss was finite at every step.

    The loss itself must be checked, because the log of a negative tau has no value but a finite gradient.
    """
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
