"""Online hyper-parameter learning: the one engine of the augmentation and the loss search.

Lin et al., "Online Hyper-parameter Learning for Auto-Augmentation Strategy", ICCV 2019, Algorithm 1.

    p_theta  distribution of the hyper-parameter       T    trunk: a stretch of training between two rewards
    theta    its parameters                            N    copies of the model trained side by side in a trunk
    s_n      what copy n drew from p_theta             R_n  reward of copy n, from its performance on val
    w        the model: a `State`, with momentum       A_n  advantage of copy n: (R_n - baseline) / std(R)

The caller passes functions: `play` runs one trunk of the settings' reward, `score` measures a model on val by the
settings' metric. Every random number is drawn from (seed, trunk, copy), never from the worker that a copy happens to
run on, so the records do not depend on `parallel`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float64

from components.online.averaging import broadcast
from components.online.controllers import Controller, Distribution, GradientGram, first_controller
from components.online.rewards import Probe, Score, TargetGradientAt, TrainingGradientAt, alignments, judge, model_of
from components.settings.online import Online
from components.streams import stream
from components.training.loop import Diverged, State
from components.training.parallel import Parallel, WorkerDied, sequential

S = TypeVar("S")
Train = Callable[[State, Any, int, int], State]
"""(state, sample, trunk, copy) -> state after one trunk under the sample (None: plain training); raises `Diverged`."""


@dataclass(frozen=True, kw_only=True)
class Trunk(Generic[S]):
    """The record of one trunk; element n of every tuple belongs to copy n."""

    index: int
    samples: tuple[S, ...]
    rewards: tuple[float, ...]
    """nan for a copy that was lost in this trunk."""
    scores: tuple[float, ...]
    """The val score behind each reward: the copy's own, or (`leave_one_out`) that of the mean of the other copies;
    for `alignment` and `linear_probe`, which score no copies, the reward itself."""
    faults: tuple[str, ...]
    """Why a copy was lost in this trunk; empty if it was not."""
    best: int
    """The copy with the highest reward."""
    theta: Float64[np.ndarray, " p"] = field(compare=False)
    """The distribution's parameters after the update."""
    score: float
    """Val score of the model that the next trunk starts from."""
    state: State = field(repr=False, compare=False)
    """The model that the next trunk starts from."""
    controller: Controller = field(repr=False, compare=False)
    """The controller after the update, with its memory: all that the next trunk needs beside `theta` and `state`."""
    gradient_gram: GradientGram | None = field(default=None, repr=False, compare=False)
    """The gradients behind the rewards, under `alignment` only."""


def search(
    distribution: Distribution[S],
    state: State,
    *,
    play: "Play",
    score: Score,
    settings: Online,
    seed: int,
    parallel: Parallel = sequential,
    after: Trunk[S] | None = None,
) -> Iterator[Trunk[S]]:
    """Train `state` while learning the distribution; yield one record a trunk, the last with the trained model.

    With `after`, a recorded trunk of the same search, it goes on from there and ends with the same bytes. Copies are
    brought back to `state`'s device, wherever they train.

    Unlike Algorithm 1, the next trunk may start from the mean of the copies instead of the best one, and a reward may
    be a copy's contribution to that mean, or come from the gradients of one model (`alignment`) or from classifiers on
    its features (`linear_probe`). Theta does not move during `warmup_trunks` (the controller learns), after
    `learn_until`, or when all rewards tie. `play` runs a trunk of the reward: `race_copies`, `align_gradients` or
    `probe_samples`, with the world's functions bound. Raises `ValueError` when no copy survives a trunk.
    """
    controller = first_controller(settings)
    if after is not None:
        controller, distribution, state = (
            after.controller,
            distribution.at(after.theta),
            on_device_of(state, after.state),
        )
    for index in range(0 if after is None else after.index + 1, settings.trunks):
        played = play(distribution, state, index, settings=settings, seed=seed, parallel=parallel)
        samples, rewards, state = played.samples, played.rewards, played.state
        controller, distribution = learn(
            controller, distribution, samples, rewards, played.gradient_gram, index=index, settings=settings
        )
        yield Trunk(
            index=index,
            samples=samples,
            rewards=tuple(rewards.tolist()),
            scores=tuple(played.scores.tolist()),
            faults=played.faults,
            best=int(np.nanargmax(rewards)),
            theta=distribution.theta.copy(),
            score=score(state),
            state=state,
            controller=controller,
            gradient_gram=played.gradient_gram,
        )


def learn(
    controller: Controller,
    distribution: Distribution[S],
    samples: Sequence[S],
    rewards: Float64[np.ndarray, " n"],
    gradient_gram: GradientGram | None = None,
    *,
    index: int,
    settings: Online,
) -> tuple[Controller, Distribution[S]]:
    """Update by the trunk's rewards: not at all after `learn_until`, the controller alone during `warmup_trunks`."""
    if index >= settings.last_learned:
        return controller, distribution
    controller, moved = controller.update(distribution, samples, rewards, gradient_gram)
    return controller, moved if index >= settings.warmup_trunks else distribution


# --- rounds: the samples tried in a trunk, their rewards, and the model after it


@dataclass(frozen=True, kw_only=True)
class Round(Generic[S]):
    """A trunk before the controller learns from it; the fields are those of `Trunk`."""

    samples: tuple[S, ...]
    rewards: Float64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    faults: tuple[str, ...]
    state: State
    gradient_gram: GradientGram | None = None


Play = Callable[..., Round[Any]]
"""Runs one trunk of a reward: (distribution, state, index, settings=, seed=, parallel=) -> `Round`."""


def race_copies(
    distribution: Distribution[S],
    state: State,
    index: int,
    *,
    train: Train,
    score: Score,
    settings: Online,
    seed: int,
    parallel: Parallel,
) -> Round[S]:
    """Run a trunk of Algorithm 1: train one copy under each sample, reward them by val, combine them into a model."""
    samples = distribution.sample(settings.copies, stream(seed, "samples", index))
    tried = parallel(attempt, [(train, state, sample, index, copy) for copy, sample in enumerate(samples)])
    copies, lost = zip(*(outcome(each) for each in tried), strict=True)
    rewards, scores, unscored = judge(settings.reward, copies, score, parallel)
    faults = tuple(fault or unscored.get(copy, "") for copy, fault in enumerate(lost))
    require_survivor(index, rewards, faults)
    after = broadcast(copies, rewards, settings.broadcast)
    return Round(samples=samples, rewards=rewards, scores=scores, faults=faults, state=after)


def align_gradients(
    distribution: Distribution[S],
    state: State,
    index: int,
    *,
    train: Train,
    target_gradient: TargetGradientAt,
    training_gradient: TrainingGradientAt,
    settings: Online,
    seed: int,
    parallel: Parallel,
) -> Round[S]:
    """Run a trunk of the reward `alignment` (ours): train one model, then compare gradients at it.

    The model trains without what is searched, so that the target gradient shows what that training lacks on val. Each
    sample is rewarded by the cosine of its added gradient with the target.
    """
    samples = distribution.probes(settings.copies, stream(seed, "samples", index))
    trained = train_one_model(train, state, index, len(samples), parallel)
    rewards, gradient_gram, unsound = alignments(
        trained, samples, index, training_gradient=training_gradient, target_gradient=target_gradient, parallel=parallel
    )
    faults = tuple(unsound.get(n, "") for n in range(len(samples)))
    require_survivor(index, rewards, faults)
    return Round(
        samples=samples, rewards=rewards, scores=rewards, faults=faults, state=trained, gradient_gram=gradient_gram
    )


def probe_samples(
    distribution: Distribution[S],
    state: State,
    index: int,
    *,
    train: Train,
    probe: Probe,
    settings: Online,
    seed: int,
    parallel: Parallel,
) -> Round[S]:
    """Run a trunk of the reward `linear_probe` (ours): train one model without what is searched, then a classifier on
    its features under every sample."""
    samples = distribution.sample(settings.copies, stream(seed, "samples", index))
    trained = train_one_model(train, state, index, len(samples), parallel)
    rewards, unsound = probe(model_of(trained), samples, index, parallel)
    faults = tuple(unsound.get(n, "") for n in range(len(samples)))
    if not np.isfinite(rewards).any():
        raise ValueError(f"no sample of trunk {index} has a score ({join_reasons(faults)}); use a smaller sigma")
    return Round(samples=samples, rewards=rewards, scores=rewards, faults=faults, state=trained)


def train_one_model(train: Train, state: State, index: int, samples: int, parallel: Parallel) -> State:
    """Train the trunk's one model without what is searched. Raises ValueError if it is lost."""
    trained, fault = outcome(parallel(attempt, [(train, state, None, index, 0)])[0])
    if trained is None:
        raise all_lost_error(index, samples, [fault])
    return trained


# --- copies: how they train, and how they are lost


def attempt(train: Train, state: State, sample: Any, trunk: int, copy: int) -> tuple[State | None, str]:
    """Train a copy; return it on the device it started from, or None and the reason why it was lost."""
    try:
        trained = on_device_of(state, train(state, sample, trunk, copy))
    except Diverged as error:
        return None, str(error)
    finite = all(bool(torch.isfinite(value).all()) for value in trained.values())
    return (trained, "") if finite else (None, "its weights are no longer finite")


def outcome(result: tuple[State | None, str] | WorkerDied) -> tuple[State | None, str]:
    return (None, result.reason) if isinstance(result, WorkerDied) else result


def on_device_of(state: State, other: State) -> State:
    """Return the other state, moved to the state's device."""
    device = next(iter(state.values())).device
    return {key: value.to(device) for key, value in other.items()}


def require_survivor(trunk: int, rewards: Float64[np.ndarray, " n"], faults: Sequence[str]) -> None:
    if not np.isfinite(rewards).any():
        raise all_lost_error(trunk, len(rewards), faults)


def all_lost_error(trunk: int, copies: int, faults: Sequence[str]) -> ValueError:
    """Return the error for a trunk that no copy survived: the reasons, and what to do."""
    remedy = (
        "a process that is killed usually lacks memory: lower parallel.workers"
        if WorkerDied().reason in faults
        else "lower train.recipe.learning_rate or raise train.recipe.warmup"
    )
    return ValueError(f"all {copies} copies were lost in trunk {trunk} ({join_reasons(faults)}); {remedy}")


def join_reasons(faults: Sequence[str]) -> str:
    """Join the different reasons in one text, each once."""
    return "; ".join(sorted(set(faults)))
