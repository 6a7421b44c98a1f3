"""Online hyper-parameter learning: the one engine of the augmentation and the loss search.

Lin et al., "Online Hyper-parameter Learning for Auto-Augmentation Strategy", ICCV 2019, Algorithm 1.

    p_theta  distribution of the hyper-parameter       T    trunk: a stretch of training between two rewards
    theta    its parameters                            N    copies of the model trained side by side in a trunk
    s_n      what copy n drew from p_theta             R_n  reward of copy n, from its performance on val
    w        the model: a `State`, with momentum       A_n  advantage of copy n: (R_n - baseline) / std(R)

The world is passed in: `train` runs one copy through one trunk, `score` measures a model on val
(the metric lives in there). Everything random is drawn from (seed, trunk, copy), never from the
worker that a copy happens to run on, so the records do not depend on `parallel`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from components.controllers import CONTROLLERS, EPSILON, Controller, Distribution
from components.data.store import Split
from components.params import Online, Recipe
from components.training import (
    METRICS,
    Augment,
    Criterion,
    Diverged,
    State,
    batches_of,
    device_of,
    initial_state,
    load_state,
    predict,
    schedule,
    split_tensors,
    steps_in,
    train_steps,
)

R = TypeVar("R")
S = TypeVar("S")
Score = Callable[[State], float]
Train = Callable[[State, Any, int, int], State]
"""(state, sample, trunk, copy) -> state after one trunk; raises `Diverged`."""
Slope = Callable[[State], State]
"""state -> gradient of val's mean log-likelihood by every parameter, under the state's keys `model.<name>`."""
Make = Callable[[], nn.Module]
"""Builds the network (a `Classifier`), the same first weights every time; picklable, for copies in other processes."""
Devices = tuple[torch.device, ...]
"""Where copies train, in turns; scores are taken, and copies meet, on the first."""

CPU: Devices = (torch.device("cpu"),)

SAMPLING, TRAINING, MATCHING, HEAD_START = range(4)
"""What a stream of random numbers is for."""
SCORE_BATCH = 64
"""Images scored at a time: on one thread, batches that stay in the cache are three times as fast as 512 (32 pixels)."""


@dataclass(frozen=True)
class WorkerDied:
    """In the place of a result: the process that computed it was killed (memory ran out), and killed again alone."""

    reason: str = "its worker died twice"


@runtime_checkable
class Parallel(Protocol):
    """Calls the function once for each tuple of arguments and returns the results in that order.

    What the function raises is raised. A call whose process is killed is made once more, so that a result never
    depends on it; killed again, it is a `WorkerDied`.
    """

    def __call__(self, function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R | WorkerDied]: ...


def sequential(function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R | WorkerDied]:
    """One after the other, here."""
    return [function(*each) for each in arguments]


@dataclass(frozen=True, kw_only=True)
class Trunk(Generic[S]):
    """What happened in one trunk; index n of every tuple is copy n."""

    index: int
    samples: tuple[S, ...]
    rewards: tuple[float, ...]
    """nan for a copy that lost the trunk."""
    scores: tuple[float, ...]
    """The val score behind each reward: of the copy itself, or (`leave_one_out`) of the mean of the other copies;
    the reward itself where it comes from no score (`first_order`)."""
    faults: tuple[str, ...]
    """Why a copy lost the trunk; empty if it did not."""
    best: int
    """The copy with the highest reward."""
    theta: Float64[np.ndarray, " p"] = field(compare=False)
    """After the update."""
    score: float
    """Val score of the model that the next trunk starts from."""
    state: State = field(repr=False, compare=False)
    """That model."""
    controller: Controller = field(repr=False, compare=False)
    """After the update, with what it remembers: with theta and the state all that the next trunk needs."""


def search(
    distribution: Distribution[S],
    state: State,
    *,
    train: Train,
    score: Score,
    slope: Slope | None = None,
    settings: Online,
    seed: int,
    parallel: Parallel = sequential,
    after: Trunk[S] | None = None,
) -> Iterator[Trunk[S]]:
    """Train `state` while learning the distribution; one record a trunk, the last one holds the trained model.

    `after` a recorded trunk of the same search, it goes on from there, to the same bytes. Models meet on `state`'s
    device, wherever copies train.

    Unlike Algorithm 1: the next trunk may start from the (weighted) mean of the copies instead of the best one,
    and a reward may be a copy's contribution to that mean (methods.md section 0); theta stands still during
    `warmup_trunks` (the controller learns), after `learn_until`, and when all rewards tie. `slope` is needed for
    `reward: first_order` only.
    Raises `ValueError` when no copy survives a trunk.
    """
    controller = first_controller(settings)
    if after is not None:
        controller, distribution, state = after.controller, distribution.at(after.theta), beside(state, after.state)
    val = Val(score, slope)
    if settings.reward == "first_order" and slope is None:
        raise ValueError(
            "reward first_order needs the slope of val's log-likelihood; give search one, or use leave_one_out"
        )
    for index in range(0 if after is None else after.index + 1, settings.trunks):
        samples = distribution.sample(settings.copies, numpy_rng(seed, index, 0, SAMPLING))
        tried = parallel(attempt, [(train, state, sample, index, copy) for copy, sample in enumerate(samples)])
        copies, lost = zip(*(outcome(each) for each in tried), strict=True)
        rewards, scores, unscored = judge(settings.reward, copies, val, parallel)
        faults = tuple(fault or unscored.get(copy, "") for copy, fault in enumerate(lost))
        refuse_extinction(index, rewards, faults)
        controller, distribution = learn(controller, distribution, samples, rewards, index=index, settings=settings)
        state = broadcast(copies, rewards, settings.broadcast)
        yield Trunk(
            index=index,
            samples=samples,
            rewards=tuple(rewards.tolist()),
            scores=tuple(scores.tolist()),
            faults=faults,
            best=int(np.nanargmax(rewards)),
            theta=distribution.theta.copy(),
            score=score(state),
            state=state,
            controller=controller,
        )


def learn(
    controller: Controller,
    distribution: Distribution[S],
    samples: Sequence[S],
    rewards: Float64[np.ndarray, " n"],
    *,
    index: int,
    settings: Online,
) -> tuple[Controller, Distribution[S]]:
    """What a trunk's rewards teach: nothing after `learn_until`; in warm-up the controller alone learns."""
    if index >= settings.learn_until * settings.trunks:
        return controller, distribution
    controller, moved = controller.update(distribution, samples, rewards)
    return controller, moved if index >= settings.warmup_trunks else distribution


def first_controller(settings: Online) -> Controller:
    """Before any reward."""
    return CONTROLLERS[settings.controller](rate=settings.controller_lr)


# --- copies: training and loss of a trunk


def attempt(train: Train, state: State, sample: Any, trunk: int, copy: int) -> tuple[State | None, str]:
    """The trained copy, back where it started from, or none and the reason."""
    try:
        trained = beside(state, train(state, sample, trunk, copy))
    except Diverged as error:
        return None, str(error)
    finite = all(bool(torch.isfinite(value).all()) for value in trained.values())
    return (trained, "") if finite else (None, "its weights are no longer finite")


def outcome(result: tuple[State | None, str] | WorkerDied) -> tuple[State | None, str]:
    return (None, result.reason) if isinstance(result, WorkerDied) else result


def beside(state: State, other: State) -> State:
    """The other state on the state's device."""
    device = next(iter(state.values())).device
    return {key: value.to(device) for key, value in other.items()}


def refuse_extinction(trunk: int, rewards: Float64[np.ndarray, " n"], faults: Sequence[str]) -> None:
    if np.isfinite(rewards).any():
        return
    remedy = (
        "a process that is killed usually lacks memory: lower parallel.workers"
        if WorkerDied().reason in faults
        else "lower train.recipe.learning_rate or raise train.recipe.warmup"
    )
    reasons = "; ".join(sorted(set(faults)))
    raise ValueError(f"all {len(rewards)} copies were lost in trunk {trunk} ({reasons}); {remedy}")


# --- rewards: of each copy a reward and the val score behind it, both nan for a copy that is lost


@dataclass(frozen=True)
class Val:
    """What can be measured on val."""

    score: Score
    slope: Slope | None


Vector = Float64[np.ndarray, " n"]
Copies = Sequence[State | None]
Faults = Mapping[int, str]
"""copy -> why it has no reward"""
NOT_FINITE = "its score on val is not finite"


class Unscored(Exception):
    """The workers that scored these copies died."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self.faults = faults


def own(copies: Copies, val: Val, parallel: Parallel) -> tuple[Vector, Vector]:
    """Each copy's own score, as in the paper."""
    scores = scores_of(dict(enumerate(copies)), len(copies), val, parallel)
    return scores, scores


def leave_one_out(copies: Copies, val: Val, parallel: Parallel) -> tuple[Vector, Vector]:
    """Minus the score of the mean of the *other* copies: the lower that is, the more the copy contributes.

    A lone survivor gets its own score.
    """
    alive = alive_among(copies)
    if len(alive) < 2:
        return own(copies, val, parallel)
    models = {n: model_of(copy) for n, copy in alive.items()}  # momentum is not scored
    others = {n: mean_state([model for m, model in models.items() if m != n]) for n in models}
    scores = scores_of(others, len(copies), val, parallel)
    return -scores, scores


def first_order(copies: Copies, val: Val, parallel: Parallel) -> tuple[Vector, Vector]:
    """<gradient of val's log-likelihood at the mean of the copies, w_n - mean>: one backward pass for all copies."""
    assert val.slope is not None
    rewards = np.full(len(copies), np.nan)
    if alive := alive_among(copies):
        mean = mean_state(list(alive.values()))
        gradient = val.slope(mean)
        rewards[list(alive)] = [along(gradient, copy, mean) for copy in alive.values()]
    return rewards, rewards


REWARDS: dict[str, Callable[[Copies, Val, Parallel], tuple[Vector, Vector]]] = {
    "own": own,
    "leave_one_out": leave_one_out,
    "first_order": first_order,
}


def judge(rule: str, copies: Copies, val: Val, parallel: Parallel) -> tuple[Vector, Vector, Faults]:
    """Rewards and scores by the rule; copies that are excluded: one that spoils the others', found by its own score,
    and one whose worker died while scoring."""
    alive = alive_among(copies)
    try:
        rewards, scores = REWARDS[rule](copies, val, parallel)
        if np.isfinite(rewards[list(alive)]).all():
            return rewards, scores, {}
        unsound = np.flatnonzero(~np.isfinite(own(copies, val, parallel)[0])).tolist()
        faults = {n: NOT_FINITE for n in alive if n in unsound}
        if not faults:  # each copy alone is sound and their means are not: no copy can be blamed
            return np.full(len(copies), np.nan), scores, dict.fromkeys(alive, NOT_FINITE)
    except Unscored as unscored:
        faults = dict(unscored.faults)
    left = [None if n in faults else copy for n, copy in enumerate(copies)]
    rewards, scores, more = judge(rule, left, val, parallel)
    return rewards, scores, faults | dict(more)


def alive_among(copies: Copies) -> dict[int, State]:
    return {n: copy for n, copy in enumerate(copies) if copy is not None}


def scores_of(states: Mapping[int, State | None], count: int, val: Val, parallel: Parallel) -> Vector:
    """Of `count` copies, the scores of those that have a state. Raises `Unscored`."""
    present = {n: state for n, state in states.items() if state is not None}
    results = dict(zip(present, parallel(val.score, [(state,) for state in present.values()]), strict=True))
    if dead := {n: result.reason for n, result in results.items() if isinstance(result, WorkerDied)}:
        raise Unscored(dead)
    scores = np.full(count, np.nan)
    scores[list(results)] = list(results.values())
    return np.where(np.isfinite(scores), scores, np.nan)


def model_of(state: State) -> State:
    """Parameters and buffers alone."""
    return {key: value for key, value in state.items() if key.startswith("model.")}


def along(gradient: State, state: State, origin: State) -> float:
    """Inner product of the gradient with the step from the origin to the state."""
    return sum(
        float((value.double() * (state[key].double() - origin[key].double())).sum()) for key, value in gradient.items()
    )


# --- broadcasts: the weight of each surviving copy in the next model


def best_alone(rewards: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    weights = np.zeros(len(rewards))
    weights[rewards.argmax()] = 1.0
    return weights


def equal_weights(rewards: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.full(len(rewards), 1 / len(rewards))


def softmax_weights(rewards: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Softmax of the standardised rewards."""
    weights: Float64[np.ndarray, " n"] = np.exp((rewards - rewards.max()) / (rewards.std() + EPSILON))
    weights /= weights.sum()
    return weights


BROADCASTS = {"best": best_alone, "average": equal_weights, "weighted": softmax_weights}


def broadcast(copies: Sequence[State | None], rewards: Float64[np.ndarray, " n"], rule: str) -> State:
    """The next model, from the copies that did not lose the trunk."""
    alive = [copy for copy, reward in zip(copies, rewards, strict=True) if copy is not None and np.isfinite(reward)]
    return mean_state(alive, BROADCASTS[rule](rewards[np.isfinite(rewards)]))


def mean_state(states: Sequence[State], weights: Float64[np.ndarray, " m"] | None = None) -> State:
    """Key by key (weights, momentum and batch-norm buffers alike) the weighted mean; integers are the first's."""
    shares = np.full(len(states), 1 / len(states)) if weights is None else weights
    parts = [(float(share), state) for share, state in zip(shares, states, strict=True) if share > 0]
    first = parts[0][1]
    if len(parts) == 1:
        return first
    return {key: weighted_sum([(share, state[key]) for share, state in parts]) for key in first}


def weighted_sum(parts: Sequence[tuple[float, Float[Tensor, "*shape"] | Int64[Tensor, "*shape"]]]) -> Tensor:
    """In double precision, so that the mean of equal copies is that copy to the last bit; on the first one's device."""
    first = parts[0][1]
    if not first.is_floating_point():
        return first
    total = torch.zeros_like(first, dtype=torch.float64)
    for share, value in parts:
        total.add_(value.to(total.device), alpha=share)
    return total.to(first.dtype)


# --- the world's two halves, for any network, split and recipe


def network_on(devices: Devices, make: Make, copy: int = 0) -> nn.Module:
    """A network for the copy, whose index alone says where: records never depend on the worker."""
    return make().to(devices[copy % len(devices)])


def train_trunk(
    network: nn.Module,
    state: State,
    split: Split,
    *,
    augment: Augment,
    criterion: Criterion,
    recipe: Recipe,
    settings: Online,
    seed: int,
    trunk: int,
    copy: int,
) -> State:
    """One copy through one trunk, on one thread; the learning rate follows the step of the whole search.

    Common random numbers when the best copy is broadcast (all copies see the same batches, so rewards differ by the
    sample alone); own batches when copies are averaged (so that their work adds up). The trunk's images go to the
    network's device at once. Raises `Diverged`.
    """
    stream = 0 if settings.broadcast == "best" else copy
    rng = numpy_rng(seed, trunk, stream, TRAINING)
    steps = steps_in(settings.images, recipe)
    batches = list(batches_of(len(split.labels), recipe.batch_size, steps, rng))
    rows = torch.cat(batches).numpy()  # only these leave the memory map
    chosen = Split(images=split.images[rows], labels=split.labels[rows])
    images, labels = (part.to(device_of(network)) for part in split_tensors(chosen))
    with one_thread():
        return train_steps(
            network,
            state,
            images,
            labels,
            batches=torch.arange(len(rows)).split(len(batches[0])),
            rate=whole_schedule(settings, recipe),
            first_step=head_steps(settings, recipe) + steps * trunk,
            augment=augment,
            criterion=criterion,
            recipe=recipe,
            rng=torch_rng(rng),
        )


def head_start(
    network: nn.Module,
    split: Split,
    *,
    augment: Augment,
    criterion: Criterion,
    recipe: Recipe,
    settings: Online,
    seed: int,
    after: Trunk[Any] | None = None,
) -> State:
    """The network after `settings.head_start` images, on one thread: where the first trunk's copies start from.

    Copies that all start from noise learn the same whatever they draw, N times over. `after` a recorded trunk nothing
    is trained: the search goes on from that trunk's state.
    """
    if after is not None:
        return initial_state(network)
    rng = numpy_rng(seed, 0, 0, HEAD_START)
    images, labels = split_tensors(split)
    with one_thread():
        return train_steps(
            network,
            initial_state(network),
            images,
            labels,
            batches=batches_of(len(labels), recipe.batch_size, head_steps(settings, recipe), rng),
            rate=whole_schedule(settings, recipe),
            first_step=0,
            augment=augment,
            criterion=criterion,
            recipe=recipe,
            rng=torch_rng(rng),
        )


def head_steps(settings: Online, recipe: Recipe) -> int:
    return settings.head_start // recipe.batch_size


def whole_schedule(settings: Online, recipe: Recipe) -> Callable[[int], float]:
    """Learning rate over the head start and all trunks."""
    return schedule(recipe, head_steps(settings, recipe) + steps_in(settings.images, recipe) * settings.trunks)


def score_state(network: nn.Module, state: State, split: Split, settings: Online) -> float:
    """The metric of the model on val (its first `score_images` images), in evaluation mode, on one thread."""
    images, labels = score_tensors(split, settings)
    load_state(network, state)
    with one_thread():
        return METRICS[settings.metric](predict(network, images, batch_size=SCORE_BATCH), labels)


def score_slope(network: nn.Module, state: State, split: Split, settings: Online) -> State:
    """Gradient of the mean log-likelihood on the images of `score_state` by every parameter, in evaluation mode."""
    images, labels = score_tensors(split, settings)
    load_state(network, state)
    network.eval()
    names, parameters = zip(*network.named_parameters(), strict=True)
    device = device_of(network)
    total = {f"model.{name}": torch.zeros_like(parameter) for name, parameter in zip(names, parameters, strict=True)}
    with one_thread():
        for batch, answer in zip(images.split(SCORE_BATCH), labels.split(SCORE_BATCH), strict=True):
            loss = F.cross_entropy(network(batch.to(device)), answer.to(device), reduction="sum") / -len(labels)
            for name, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                total[name] += gradient
    return total


def score_tensors(split: Split, settings: Online) -> tuple[UInt8[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    """The images that rewards are measured on."""
    return split_tensors(
        Split(images=split.images[: settings.score_images], labels=split.labels[: settings.score_images])
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside: the same sums in the same order on every worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def numpy_rng(seed: int, trunk: int, copy: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng((seed, trunk, copy, purpose))


def torch_rng(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
