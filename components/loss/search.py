"""AM-LFS on the online engine: a Gaussian over the knots of t and tau, one trunk of training for each sample.

Li et al., "AM-LFS: AutoML for Loss Function Search", ICCV 2019, Algorithm 1 (methods.md section 3).

    theta, mu  what is learned: the Gaussian's mean     sigma  its standard deviation, fixed
    g(L)       norm of the gradient of L, all parameters

Unlike the paper: samples come in antithetic pairs (components.gaussian); and every sampled loss is scaled to
g(cross-entropy) at the state it starts from, or a loss with twice the gradient, a doubled learning rate, would win for
nothing. Rewards are measured on val and never use a searched loss.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor, nn

from components.data.store import Split
from components.gaussian import Gaussian, Sample
from components.loss.family import SearchedLoss, decode
from components.online import MATCHING, Trunk, numpy_rng, torch_rng
from components.parallel import Parallel, sequential
from components.params import Loss, Online
from components.training import (
    Classifier,
    Criterion,
    Diverged,
    State,
    cross_entropy,
    device_of,
    load_state,
    split_tensors,
)
from components.world import Treatment, World, network_on, one_thread

LARGEST = 4.0
"""Most that matching multiplies or divides a loss by (ours): one whose gradient vanishes stays slow instead of
being blown up on the few images that still have one, which made training from scratch diverge."""


def start(settings: Loss) -> Gaussian:
    """Around cross-entropy."""
    return Gaussian(theta=np.zeros(2 * settings.knots), sigma=settings.sigma)


@dataclass(frozen=True, kw_only=True)
class LossWorld(World):
    """Where losses are tried: the chosen network, under the augmentation found before."""

    settings: Loss

    @property
    def online(self) -> Online:
        return self.settings.online

    def search(self, parallel: Parallel = sequential, after: Trunk[Sample] | None = None) -> Iterator[Trunk[Sample]]:
        """Train the network while learning the loss, from cross-entropy or a recorded trunk on; one record a trunk."""
        yield from self.search_from(start(self.settings), parallel, after)

    def treatment(self, sample: Sample, state: State, trunk: int, copy: int) -> Treatment:
        """Training under the sampled loss, matched to cross-entropy first."""
        loss = self.loss(sample).to(self.devices[copy % len(self.devices)])
        return replace(self.plain(), criterion=loss.at_scale(self.matching_scale(loss, state, trunk, copy)))

    def loss(self, theta: Sequence[float] | Float64[np.ndarray, " p"]) -> SearchedLoss:
        return decode(np.asarray(theta), self.recipe.label_smoothing)

    def matching_scale(self, loss: Criterion, state: State, trunk: int, copy: int = 0) -> float:
        """g(cross-entropy) / g(loss) at the state on one augmented batch, the same one for all copies of the trunk.

        Between 1 / `LARGEST` and `LARGEST`; on the copy's device, where the loss must be. Raises `Diverged` where a
        gradient is not finite.
        """
        network = network_on(self.devices, self.make, copy)
        rng = numpy_rng(self.seed, trunk, 0, MATCHING)
        batch = rng.permutation(len(self.train.labels))[: self.recipe.batch_size]
        chosen = Split(images=self.train.images[batch], labels=self.train.labels[batch])
        images, labels = (part.to(device_of(network)) for part in split_tensors(chosen))
        criteria = cross_entropy(self.recipe.label_smoothing), loss
        with one_thread():
            wanted, got = gradient_norms(network, state, self.plain().augment(images, torch_rng(rng)), labels, criteria)
        if not (math.isfinite(wanted) and math.isfinite(got)):
            raise Diverged(f"gradient norm {got} of the sampled loss, {wanted} of cross-entropy: no scale between them")
        scale = wanted / got if got > 0 else LARGEST
        return min(max(scale, 1 / LARGEST), LARGEST)

    def found(self, theta: Float64[np.ndarray, " p"], states: Sequence[State]) -> SearchedLoss:
        """The loss at theta as an artifact, with one constant scale for a whole training.

        The scale is the geometric mean of the matching scales at the states, taken along the search's own training.
        Matched at initialisation alone, a loss that weighs hard images less would be scaled up for all the later
        training, where few images are hard, and a larger learning rate would pass for a better loss.
        """
        loss = self.loss(theta).to(self.devices[0])
        logs = [math.log(self.matching_scale(loss, state, trunk)) for trunk, state in enumerate(states)]
        return loss.at_scale(math.exp(sum(logs) / len(logs)))


def gradient_norms(
    network: nn.Module,
    state: State,
    images: UInt8[Tensor, "b c h w"],
    labels: Int64[Tensor, " b"],
    criteria: Sequence[Criterion],
) -> list[float]:
    """Norm of each criterion's gradient over all parameters, in training mode; `network` is scratch space."""
    load_state(network, state)
    network.train()
    parameters = tuple(network.parameters())
    classifier = cast(Classifier, network)
    features = classifier.features(images)
    norms = []
    for criterion in criteria:
        loss = criterion(features, classifier.classifier.weight, labels)
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        norms.append(math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients)))
    return norms
