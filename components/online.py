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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

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
Make = Callable[[], nn.Module]
"""Builds the network (a `Classifier`), the same first weights every time; picklable, for copies in other processes."""

BETAS = (0.5, 0.999)
EPSILON = 1e-8
SAMPLING, TRAINING = 0, 1
"""What a stream of random numbers is for."""
SCORE_BATCH = 64
"""Images scored at a time: on one thread, batches that stay in the cache are three times as fast as 512 (32 pixels)."""


@runtime_checkable
class Distribution(Protocol[S]):
    """p_theta. An immutable value: `at` makes the moved one."""

    @property
    def theta(self) -> Float64[np.ndarray, " p"]: ...

    def sample(self, count: int, rng: np.random.Generator) -> tuple[S, ...]:
        """One sample for each of `count` copies."""
        ...

    def score_gradient(self, sample: S) -> Float64[np.ndarray, " p"]:
        """d log p_theta(sample) / d theta, divided by the number of draws that the sample holds."""
        ...

    def at(self, theta: Float64[np.ndarray, " p"]) -> "Distribution[S]": ...


@runtime_checkable
class Parallel(Protocol):
    """Calls the function once for each tuple of arguments and returns the results in that order."""

    def __call__(self, function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R]: ...


def sequential(function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R]:
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
    """The val score behind each reward: of the copy itself, or (`leave_one_out`) of the mean of the other copies."""
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


def search(
    distribution: Distribution[S],
    state: State,
    *,
    train: Train,
    score: Score,
    settings: Online,
    seed: int,
    parallel: Parallel = sequential,
) -> Iterator[Trunk[S]]:
    """Train `state` while learning the distribution; one record a trunk, the last one holds the trained model.

    Unlike Algorithm 1: the next trunk may start from the (weighted) mean of the copies instead of the best one,
    and a reward may be a copy's contribution to that mean (methods.md section 0); theta stands still during
    `warmup_trunks`, after `learn_until`, and when all rewards tie (Adam's momentum would move it without a signal).
    Raises `ValueError` when no copy survives a trunk.
    """
    controller = CONTROLLERS[settings.controller](rate=settings.controller_lr)
    for index in range(settings.trunks):
        samples = distribution.sample(settings.copies, numpy_rng(seed, index, 0, SAMPLING))
        tried = parallel(attempt, [(train, state, sample, index, copy) for copy, sample in enumerate(samples)])
        copies = [copy for copy, _ in tried]
        scores = SCORES[settings.reward](copies, score, parallel)
        rewards = SIGNS[settings.reward] * scores
        refuse_extinction(index, rewards, [fault for _, fault in tried])
        if settings.warmup_trunks <= index < settings.learn_until * settings.trunks:
            controller, distribution = controller.update(distribution, samples, rewards)
        state = broadcast(copies, rewards, settings.broadcast)
        yield Trunk(
            index=index,
            samples=samples,
            rewards=tuple(rewards.tolist()),
            scores=tuple(scores.tolist()),
            faults=tuple(fault_of(fault, reward) for (_, fault), reward in zip(tried, rewards, strict=True)),
            best=int(np.nanargmax(rewards)),
            theta=distribution.theta.copy(),
            score=score(state),
            state=state,
        )


# --- copies: training and loss of a trunk


def attempt(train: Train, state: State, sample: Any, trunk: int, copy: int) -> tuple[State | None, str]:
    """The trained copy, or none and the reason."""
    try:
        trained = train(state, sample, trunk, copy)
    except Diverged as error:
        return None, str(error)
    finite = all(bool(torch.isfinite(value).all()) for value in trained.values())
    return (trained, "") if finite else (None, "its weights are no longer finite")


def fault_of(fault: str, reward: float) -> str:
    return fault or ("" if np.isfinite(reward) else "its score on val is not finite")


def refuse_extinction(trunk: int, rewards: Float64[np.ndarray, " n"], faults: Sequence[str]) -> None:
    if not np.isfinite(rewards).any():
        reasons = sorted({fault_of(fault, reward) for fault, reward in zip(faults, rewards, strict=True)})
        raise ValueError(
            f"all {len(rewards)} copies were lost in trunk {trunk} ({'; '.join(reasons)}); "
            "lower train.recipe.learning_rate or raise train.recipe.warmup"
        )


# --- rewards: SCORES gives each copy a val score (nan: lost), SIGNS says whether high is good


def own_scores(copies: Sequence[State | None], score: Score, parallel: Parallel) -> Float64[np.ndarray, " n"]:
    """Each copy's own score, as in the paper."""
    alive = [n for n, copy in enumerate(copies) if copy is not None]
    scores = np.full(len(copies), np.nan)
    scores[alive] = parallel(score, [(copies[n],) for n in alive])
    return np.where(np.isfinite(scores), scores, np.nan)


def scores_without(copies: Sequence[State | None], score: Score, parallel: Parallel) -> Float64[np.ndarray, " n"]:
    """For each copy the score of the mean of the *other* copies: the lower, the more the copy contributes.

    A copy that spoils the means is found by its own score and excluded; a lone survivor gets its own score.
    """
    sound = {n: copy for n, copy in enumerate(copies) if copy is not None}
    alive = list(sound)
    if len(alive) < 2:
        return own_scores(copies, score, parallel)
    scores = np.full(len(copies), np.nan)
    scores[alive] = parallel(score, [(mean_state([sound[m] for m in alive if m != n]),) for n in alive])
    if np.isfinite(scores[alive]).all():
        return scores
    own = own_scores(copies, score, parallel)
    if np.isfinite(own[alive]).all():  # each copy alone is sound and their means are not: no copy can be blamed
        return np.full(len(copies), np.nan)
    return scores_without([copies[n] if np.isfinite(own[n]) else None for n in range(len(copies))], score, parallel)


SCORES = {"own": own_scores, "leave_one_out": scores_without}
SIGNS = {"own": 1.0, "leave_one_out": -1.0}


# --- controllers: from rewards to the distribution


@dataclass(frozen=True, kw_only=True)
class Null:
    """Never moves: what is left of the search is selection or averaging."""

    rate: float = 0.0

    def update(
        self, distribution: Distribution[S], samples: Sequence[S], rewards: Float64[np.ndarray, " n"]
    ) -> tuple["Null", Distribution[S]]:
        return self, distribution


@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """theta <- Adam(theta, 1/N sum_n A_n d log p_theta(s_n) / d theta), ascending."""

    rate: float
    steps: int = 0
    first: Float64[np.ndarray, " p"] | float = 0.0
    second: Float64[np.ndarray, " p"] | float = 0.0

    def update(
        self, distribution: Distribution[S], samples: Sequence[S], rewards: Float64[np.ndarray, " n"]
    ) -> tuple["Reinforce", Distribution[S]]:
        alive = np.isfinite(rewards)
        if alive.sum() < 2 or np.ptp(rewards[alive]) == 0:
            return self, distribution
        drawn = [distribution.score_gradient(sample) for sample, lives in zip(samples, alive, strict=True) if lives]
        gradient = advantages(rewards[alive]) @ np.stack(drawn) / len(drawn)
        steps = self.steps + 1
        first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient**2
        size = np.sqrt(second / (1 - BETAS[1] ** steps)) + EPSILON
        moved = distribution.theta + self.rate * first / (1 - BETAS[0] ** steps) / size
        return replace(self, steps=steps, first=first, second=second), distribution.at(moved)


CONTROLLERS: dict[str, type[Null] | type[Reinforce]] = {"null": Null, "reinforce": Reinforce}


def advantages(rewards: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """(R_n - baseline) / std(R); the baseline is the mean, for N <= 4 the mean of the other copies.

    With a fixed N the second is N / (N - 1) times the first, which Adam's normalisation cancels.
    """
    count = len(rewards)
    correction = count / (count - 1) if count <= 4 else 1.0
    standard: Float64[np.ndarray, " n"] = (rewards - rewards.mean()) / (rewards.std() + EPSILON)
    return standard * correction


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
            rate=schedule(recipe, steps * settings.trunks),
            first_step=steps * trunk,
            augment=augment,
            criterion=criterion,
            recipe=recipe,
            rng=torch_rng(rng),
        )


def score_state(network: nn.Module, state: State, split: Split, settings: Online) -> float:
    """The metric of the model on val (its first `score_images` images), in evaluation mode, on one thread."""
    images, labels = split_tensors(
        Split(images=split.images[: settings.score_images], labels=split.labels[: settings.score_images])
    )
    load_state(network, state)
    with one_thread():
        return METRICS[settings.metric](predict(network, images, batch_size=SCORE_BATCH), labels)


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
