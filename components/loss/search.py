"""AM-LFS on the online engine: a Gaussian over the knots of t and tau, one trunk of training for each sample.

Li et al., "AM-LFS: AutoML for Loss Function Search", ICCV 2019, Algorithm 1.

    theta, mu  what is learned: the Gaussian's mean     sigma  its standard deviation, fixed
    g(L)       norm of the gradient of L, all parameters

Unlike the paper: samples come in antithetic pairs (components.online.gaussian); and every sampled loss is scaled to
g(cross-entropy) at the state it starts from, or a loss with twice the gradient, a doubled learning rate, would win for
nothing. Rewards are measured on val and never use a searched loss.

The reward `linear_probe` (components.loss.probe) trains no copies: one network trains, and every sample trains a
classifier on its features.

The reward `alignment` compares directions alone: a loss earns what it turns a step of the classifier towards val's
gradient. The classifier alone (as in GRAD-MATCH, Killamsetty et al., ICML 2021), so that a trunk's samples share the
features, and one more of them costs its loss and the gradient by the classifier's weight. Val's gradient is of a
smooth form of the metric. Of accuracy it is the mean probability of the label, whose gradient wrong labels shorten but
do not turn if they are even over the classes (Ghosh et al., "Robust loss functions under label noise", AAAI 2017): so
val may have wrong labels too.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from components.loss.family import Member, decode
from components.loss.probe import STACK_SIZE, probe_data, probe_scores
from components.online.engine import Trunk
from components.online.gaussian import Gaussian, Sample
from components.online.rewards import Faults, Probe, TargetGradient, Vector
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
"""Most that matching multiplies or divides a loss by (ours): one whose gradient vanishes stays slow instead of
being blown up on the few images that still have one, which made training from scratch diverge."""
NO_VALUE = "its loss was no finite number while a classifier trained under it"
CURE = "use a smaller loss.sigma or loss.online.controller_lr"


def start(settings: Loss) -> Gaussian:
    """Around cross-entropy."""
    return Gaussian(theta=np.zeros(2 * (settings.knots + settings.class_margins)), sigma=settings.sigma)


CLASSIFIER = "model.classifier.weight"


@dataclass(frozen=True, kw_only=True)
class FrozenFeatures:
    """What the gradients of all samples of a trunk are taken on."""

    state: State
    trunk: int
    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True, kw_only=True)
class LossWorld(World):
    """Where losses are tried: the chosen network, under the augmentation found before."""

    settings: Loss
    memory: list[FrozenFeatures] = field(default_factory=list, init=False, repr=False, compare=False)
    """The last of `frozen_features`. Workers get the world after the plain pull, and find its answer here."""

    @property
    def online(self) -> Online:
        return self.settings.online

    def search(
        self,
        parallel: Parallel = sequential,
        distribution: Gaussian | None = None,
        after: Trunk[Sample] | None = None,
    ) -> Iterator[Trunk[Sample]]:
        """Train the network while learning the loss; one record a trunk.

        It starts with a distribution (without one around cross-entropy), or after a recorded trunk.
        """
        yield from self.search_from(distribution or start(self.settings), parallel, after)

    def treatment(self, sample: Sample, state: State, trunk: int, copy: int) -> Treatment:
        """Training under the sampled loss, matched to cross-entropy first."""
        loss = self.loss(sample, state).to(self.devices[copy % len(self.devices)])
        return replace(self.plain(), criterion=loss.at_scale(self.matching_scale(loss, state, trunk, copy)))

    def target_gradient(self, state: State, trunk: int) -> TargetGradient:
        """Where in the classifier's weight each half of val would have its metric, in its smooth form, rise fastest.
        No losses: `matching`, which asks for them, needs the same samples in every trunk."""
        images, labels = score_tensors(self.val, self.online)
        smooth, features = SMOOTH[self.online.metric], features_of(network_on(self.devices, self.make), state, images)

        def rise(half: slice) -> State:
            return slope_at(lambda weight: smooth(features[half] @ weight.T, labels[half]), state)

        return TargetGradient(halves=(rise(slice(0, None, 2)), rise(slice(1, None, 2))))

    def training_gradient(self, state: State, sample: Sample | None, trunk: int, copy: int) -> State:
        """Direction, of length 1, of the classifier's step under the sample, or under cross-entropy without one."""
        criterion = cross_entropy(self.recipe.label_smoothing) if sample is None else self.loss(sample, state)
        frozen = self.frozen_features(state, trunk)
        return unit(slope_at(lambda weight: -criterion(frozen.features, weight, frozen.labels), state))

    def frozen_features(self, state: State, trunk: int) -> FrozenFeatures:
        """`probe_features`, computed once for all samples of the trunk."""
        if not (self.memory and self.memory[0].trunk == trunk and equal(self.memory[0].state, state)):
            features, labels = self.probe_features(state, trunk)
            self.memory[:] = [FrozenFeatures(state=state, trunk=trunk, features=features, labels=labels)]
        return self.memory[0]

    def probe_features(self, state: State, trunk: int) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"]]:
        """Of the trunk's `probe_images`, as training sees them; and their labels."""
        order, rng = self.order(trunk)
        images, labels = split_tensors(self.train.at(order[: self.online.probe_images]))
        moved = self.plain().augment(images, torch_rng(rng))
        return features_of(network_on(self.devices, self.make), state, moved), labels

    @property
    def probe(self) -> Probe:
        return self.linear_probe

    def linear_probe(
        self, state: State, samples: Sequence[Sample], trunk: int, parallel: Parallel
    ) -> tuple[Vector, Faults]:
        """The metric on val under a new classifier, trained on the state's features by each sample's loss."""
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
        """For as many classes as the state's classifier has; class margins are those of the training images."""
        counts = None
        if self.settings.class_margins:
            counts = np.bincount(self.train.labels, minlength=len(state[CLASSIFIER]))
        return decode(np.asarray(theta), self.recipe.label_smoothing, counts)

    def matching_scale(self, loss: Criterion, state: State, trunk: int, copy: int = 0) -> float:
        """g(cross-entropy) / g(loss) at the state on one augmented batch, the same one for all copies of the trunk.

        Between 1 / `LARGEST_SCALE` and `LARGEST_SCALE`; on the copy's device, where the loss must be. Raises `Diverged`
        where a gradient is not finite.
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
        """The loss at theta as an artifact, with one constant scale for a whole training, at most 1.

        The scale is the geometric mean of the matching scales at the states, taken along the search's own training, so
        that no larger learning rate passes for a better loss. A loss that ignores hopeless images has a smaller
        gradient because it ignores them; made as large as cross-entropy's, the others would weigh more than always. It
        keeps scale 1 (which was 8 points better under 40 % wrong labels, on one seed).

        Raises ValueError where a gradient is not finite.
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


# --- which way is up on val


def label_probability(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Accuracy, smooth: the mean probability of the label."""
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
"""Of each metric what `alignment` climbs in its stead."""


def slope_at(rises: Callable[[Tensor], Tensor], state: State) -> State:
    """Gradient of the function of the classifier's weight. On the CPU, on one thread."""
    weight = state[CLASSIFIER].detach().cpu().requires_grad_()
    with one_thread():
        (gradient,) = torch.autograd.grad(rises(weight), weight)
    return {CLASSIFIER: gradient}


def unit(slope: State) -> State:
    """Of length 1; zero stays zero."""
    size = torch.linalg.vector_norm(slope[CLASSIFIER].double()).item()
    return {CLASSIFIER: slope[CLASSIFIER] / size} if size > 0 else slope


@torch.no_grad()
def features_of(network: nn.Module, state: State, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """In evaluation mode, on one thread; on the CPU."""
    load_state(network, state)
    network.eval()
    classifier, device = cast(Classifier, network), device_of(network)
    with one_thread():
        return torch.cat([classifier.features(batch.to(device)).cpu() for batch in images.split(SCORE_BATCH)])


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
