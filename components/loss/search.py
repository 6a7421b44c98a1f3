"""The loss search AM-LFS on the online engine: a Gaussian over the knots of t and tau.

Li et al., "AM-LFS: AutoML for Loss Function Search", ICCV 2019, Algorithm 1.

    theta  the Gaussian's mean, which is learned     sigma  its standard deviation, fixed
    g(L)   norm of L's gradient by all parameters

Unlike the paper, samples come in antithetic pairs (components.online.gaussian), and every sampled loss is scaled to
g(cross-entropy) at the state it starts from: else a loss with twice the gradient would win as a doubled learning rate
does. Rewards are measured on val and never use a searched loss.

With the reward `linear_probe` (components.loss.probe) one network trains instead of copies, and every sample trains a
classifier on its features.

The reward `alignment` compares directions alone: a loss is rewarded for turning a step of the classifier towards val's
gradient. It looks at the classifier only (as GRAD-MATCH does, Killamsetty et al., ICML 2021), so that a trunk's samples
share the features, and one more of them costs only its loss and the gradient by the classifier's weight. Val's gradient
is that of a smooth form of the metric. For accuracy this is the mean probability of the label: wrong labels that are
even over the classes shorten its gradient but do not turn it (Ghosh et al., "Robust loss functions under label noise",
AAAI 2017), so that val may have wrong labels too.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from components.loss.family import Member, decode
from components.loss.probe import STACK_SIZE, probe_data, probe_scores
from components.online.engine import Play, Trunk, probe_samples
from components.online.gaussian import Gaussian, Sample
from components.online.rewards import Faults, TargetGradient, Vector
from components.online.world import SCORE_BATCH, Treatment, World, score_tensors
from components.settings.loss import Loss
from components.settings.online import Online
from components.streams import stream, torch_rng, torch_stream
from components.training.devices import network_on, one_thread
from components.training.inference import device_of, split_tensors
from components.training.loop import Classifier, Criterion, Diverged, State, cross_entropy, load_state
from components.training.metrics import smooth_lq_likelihood
from components.training.parallel import Parallel, WorkerDied, sequential

LARGEST_SCALE = 4.0
"""Largest factor by which a loss is multiplied or divided to match cross-entropy's gradient (ours). A loss whose
gradient vanishes stays slow: scaled up on the few images that still have one, it made training from scratch diverge."""
NO_VALUE = "its loss was no finite number while a classifier trained under it"
CURE = "use a smaller loss.sigma or loss.online.controller_lr"


def start(settings: Loss) -> Gaussian:
    """Return the Gaussian that the search starts from, with its mean at cross-entropy."""
    return Gaussian(theta=np.zeros(2 * (settings.knots + settings.class_margins)), sigma=settings.sigma)


CLASSIFIER = "model.classifier.weight"


@dataclass(frozen=True, kw_only=True)
class FrozenFeatures:
    """Features and labels of a trunk's training images, which all samples take their gradients on."""

    state: State
    trunk: int
    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True, kw_only=True)
class LossWorld(World):
    """The world of the loss search: the chosen network, under the augmentation found before."""

    settings: Loss
    memory: list[FrozenFeatures] = field(default_factory=list, init=False, repr=False, compare=False)
    """The last result of `frozen_features`. Workers get a copy of the world after the plain gradient has filled it."""

    @property
    def online(self) -> Online:
        return self.settings.online

    def search(
        self,
        parallel: Parallel = sequential,
        distribution: Gaussian | None = None,
        after: Trunk[Sample] | None = None,
    ) -> Iterator[Trunk[Sample]]:
        """Train the network while learning the loss; yield one record a trunk.

        It starts from a distribution, by default the one around cross-entropy, or after a recorded trunk.
        """
        yield from self.search_from(distribution or start(self.settings), parallel, after)

    def treatment(self, sample: Sample, state: State, trunk: int, copy: int) -> Treatment:
        """Return training under the sampled loss, scaled to cross-entropy's gradient."""
        loss = self.loss(sample, state).to(self.devices[copy % len(self.devices)])
        return replace(self.plain(), criterion=loss.at_scale(self.matching_scale(loss, state, trunk, copy)))

    def target_gradient(self, state: State, trunk: int) -> TargetGradient:
        """Return the gradient, by the classifier's weight, of the metric's smooth form on each half of val.

        It has no losses: only the controller `matching` needs them, and it needs the same samples in every trunk.
        """
        images, labels = score_tensors(self.val, self.online)
        smooth, features = SMOOTH[self.online.metric], features_of(network_on(self.devices, self.make), state, images)

        def rise(half: slice) -> State:
            return slope_at(lambda weight: smooth(features[half] @ weight.T, labels[half]), state)

        return TargetGradient(halves=(rise(slice(0, None, 2)), rise(slice(1, None, 2))))

    def training_gradient(self, state: State, sample: Sample | None, trunk: int, copy: int) -> State:
        """Return the unit direction of the classifier's step under the sample; None stands for cross-entropy."""
        criterion = cross_entropy(self.recipe.label_smoothing) if sample is None else self.loss(sample, state)
        frozen = self.frozen_features(state, trunk)
        return unit(slope_at(lambda weight: -criterion(frozen.features, weight, frozen.labels), state))

    def frozen_features(self, state: State, trunk: int) -> FrozenFeatures:
        """Return `probe_features`, computed once for all samples of the trunk."""
        if not (self.memory and self.memory[0].trunk == trunk and equal(self.memory[0].state, state)):
            features, labels = self.probe_features(state, trunk)
            self.memory[:] = [FrozenFeatures(state=state, trunk=trunk, features=features, labels=labels)]
        return self.memory[0]

    def probe_features(self, state: State, trunk: int) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"]]:
        """Return features of the trunk's `probe_images`, augmented as in training, and their labels."""
        order, rng = self.order(trunk)
        images, labels = split_tensors(self.train.at(order[: self.online.probe_images]))
        moved = self.plain().augment(images, torch_rng(rng))
        return features_of(network_on(self.devices, self.make), state, moved), labels

    def play(self) -> Play:
        """Return the function that runs a trunk of the settings' reward, which may also be `linear_probe` here."""
        if self.online.reward == "linear_probe":
            return partial(probe_samples, train=self.train_copy, probe=self.linear_probe)
        return super().play()

    def linear_probe(
        self, state: State, samples: Sequence[Sample], trunk: int, parallel: Parallel
    ) -> tuple[Vector, Faults]:
        """Return the metric on val of a new classifier, trained on the state's features by each sample's loss."""
        features, labels = self.probe_features(state, trunk)
        images, val_labels = score_tensors(self.val, self.online)
        val_features = features_of(network_on(self.devices, self.make), state, images)
        classes, rng = len(state[CLASSIFIER]), torch_stream(self.seed, "probe classifier", trunk)
        data = probe_data(features, labels, val_features, val_labels, classes=classes, rng=rng)
        stacks = [samples[at : at + STACK_SIZE] for at in range(0, len(samples), STACK_SIZE)]
        losses = [[self.loss(sample, state) for sample in stack] for stack in stacks]
        results = parallel(probe_scores, [(data, stack, self.online.metric) for stack in losses])
        scores, faults = np.full(len(samples), np.nan), dict[int, str]()
        for at, (stack, result) in enumerate(zip(stacks, results, strict=True)):
            of_stack = range(at * STACK_SIZE, at * STACK_SIZE + len(stack))
            if isinstance(result, WorkerDied):
                faults |= dict.fromkeys(of_stack, result.reason)
                continue
            scores[of_stack] = result
            faults |= {n: NO_VALUE for n in of_stack if not math.isfinite(scores[n])}
        return np.where(np.isfinite(scores), scores, np.nan), faults

    def loss(self, theta: Sequence[float] | Float64[np.ndarray, " p"], state: State) -> Member:
        """Return the loss of theta; class margins, if searched, use the training images of each class."""
        counts = None
        if self.settings.class_margins:
            counts = np.bincount(self.train.labels, minlength=len(state[CLASSIFIER]))
        return decode(np.asarray(theta), self.recipe.label_smoothing, counts)

    def matching_scale(self, loss: Criterion, state: State, trunk: int, copy: int = 0) -> float:
        """Return g(cross-entropy) / g(loss) at the state, on one augmented batch that all copies of the trunk share.

        The result is clipped to 1 / `LARGEST_SCALE` .. `LARGEST_SCALE`. The loss must be on the copy's device. Raises
        `Diverged` if a gradient is not finite.
        """
        network = network_on(self.devices, self.make, copy)
        rng = stream(self.seed, "loss scale", trunk)
        batch = rng.permutation(len(self.train.labels))[: self.recipe.batch_size]
        images, labels = (part.to(device_of(network)) for part in split_tensors(self.train.at(batch)))
        criteria = cross_entropy(self.recipe.label_smoothing), loss
        with one_thread():
            wanted, got = gradient_norms(network, state, self.plain().augment(images, torch_rng(rng)), labels, criteria)
        if not (math.isfinite(wanted) and math.isfinite(got)):
            raise Diverged(f"gradient norm {got} of the sampled loss, {wanted} of cross-entropy: no scale between them")
        scale = wanted / got if got > 0 else LARGEST_SCALE
        return min(max(scale, 1 / LARGEST_SCALE), LARGEST_SCALE)

    def found(self, theta: Float64[np.ndarray, " p"], states: Sequence[State]) -> Member:
        """Return the loss at theta as an artifact, with one constant scale for a whole training, at most 1.

        The scale is the geometric mean of the matching scales at states along the search's own training, so that a
        larger learning rate does not pass for a better loss. A loss that ignores hopeless images has a smaller gradient
        for that reason. Scaled up to cross-entropy's, it would give the other images too much weight, so it keeps scale
        1 (8 points better under 40 % wrong labels, on one seed).

        Raises ValueError if a gradient is not finite.
        """
        loss = self.loss(theta, states[0]).to(self.devices[0])
        try:
            logs = [math.log(self.matching_scale(loss, state, trunk)) for trunk, state in enumerate(states)]
        except Diverged as error:
            raise ValueError(f"no network can be trained with the found loss ({error}); {CURE}") from None
        return loss.at_scale(min(1.0, math.exp(sum(logs) / len(logs))))


def gradient_norms(
    network: nn.Module,
    state: State,
    images: UInt8[Tensor, "b c h w"],
    labels: Int64[Tensor, " b"],
    criteria: Sequence[Criterion],
) -> list[float]:
    """Return the norm of each criterion's gradient by all parameters, in training mode; `network` is scratch space."""
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


# --- the metric's gradient on val


def label_probability(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return the mean probability of the label, a smooth form of accuracy."""
    return logits.softmax(dim=1).gather(1, labels[:, None]).mean()


def mean_log_likelihood(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    return -F.cross_entropy(logits, labels)


Smooth = Callable[[Float[Tensor, "n k"], Int64[Tensor, " n"]], Float[Tensor, ""]]
SMOOTH: dict[str, Smooth] = {
    "accuracy": label_probability,
    "log_likelihood": mean_log_likelihood,
    "lq_likelihood": smooth_lq_likelihood,
    "calibrated_log_likelihood": mean_log_likelihood,
}
"""For each metric, the differentiable function that `alignment` uses in its place."""


def slope_at(rises: Callable[[Tensor], Tensor], state: State) -> State:
    """Return the gradient of a function of the classifier's weight, on the CPU, on one thread."""
    weight = state[CLASSIFIER].detach().cpu().requires_grad_()
    with one_thread():
        (gradient,) = torch.autograd.grad(rises(weight), weight)
    return {CLASSIFIER: gradient}


def unit(slope: State) -> State:
    """Scale to length 1; zero stays zero."""
    size = torch.linalg.vector_norm(slope[CLASSIFIER].double()).item()
    return {CLASSIFIER: slope[CLASSIFIER] / size} if size > 0 else slope


@torch.no_grad()
def features_of(network: nn.Module, state: State, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """Return features in evaluation mode, computed on one thread and moved to the CPU."""
    load_state(network, state)
    network.eval()
    classifier, device = cast(Classifier, network), device_of(network)
    with one_thread():
        return torch.cat([classifier.features(batch.to(device)).cpu() for batch in images.split(SCORE_BATCH)])


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
