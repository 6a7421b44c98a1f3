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
from dataclasses import dataclass, field
from functools import partial
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
"""(state, sample, trunk, copy) -> state after one trunk, without a sample as training is; raises `Diverged`."""


@dataclass(frozen=True, kw_only=True)
class Trunk(Generic[S]):
    """What happened in one trunk; index n of every tuple is copy n."""

    index: int
    samples: tuple[S, ...]
    rewards: tuple[float, ...]
    """nan for a copy that lost the trunk."""
    scores: tuple[float, ...]
    """The val score behind each reward: of the copy itself, or (`leave_one_out`) of the mean of the other copies;
    the reward itself where it comes from no copy's score (`alignment`, `linear_probe`)."""
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
    gradient_gram: GradientGram | None = field(default=None, repr=False, compare=False)
    """`alignment`: what the rewards are cosines of."""


def search(
    distribution: Distribution[S],
    state: State,
    *,
    train: Train,
    score: Score,
    target_gradient: TargetGradientAt | None = None,
    training_gradient: TrainingGradientAt | None = None,
    probe: Probe | None = None,
    settings: Online,
    seed: int,
    parallel: Parallel = sequential,
    after: Trunk[S] | None = None,
) -> Iterator[Trunk[S]]:
    """Train `state` while learning the distribution; one record a trunk, the last one holds the trained model.

    `after` a recorded trunk of the same search, it goes on from there, to the same bytes. Models meet on `state`'s
    device, wherever copies train.

    Unlike Algorithm 1: the next trunk may start from the mean of the copies instead of the best one, and a
    reward may be a copy's contribution to that mean, or come from the gradients of one model (`alignment`) or from
    classifiers on its features (`linear_probe`); theta stands still during `warmup_trunks` (the controller learns),
    after `learn_until`, and when all rewards tie. `reward: alignment` needs `target_gradient` and `training_gradient`,
    `linear_probe` needs `probe`.
    Raises `ValueError` when no copy survives a trunk.
    """
    controller = first_controller(settings)
    if after is not None:
        controller, distribution, state = (
            after.controller,
            distribution.at(after.theta),
            on_device_of(state, after.state),
        )
    play = round_for(settings, train, score, target_gradient, training_gradient, probe)
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
    """What a trunk's rewards teach: nothing after `learn_until`; in warm-up the controller alone learns."""
    if index >= settings.last_learned:
        return controller, distribution
    controller, moved = controller.update(distribution, samples, rewards, gradient_gram)
    return controller, moved if index >= settings.warmup_trunks else distribution


# --- the rounds: what is tried in a trunk, the rewards it earns, and the model after it


@dataclass(frozen=True, kw_only=True)
class Round(Generic[S]):
    """See `Trunk`."""

    samples: tuple[S, ...]
    rewards: Float64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    faults: tuple[str, ...]
    state: State
    gradient_gram: GradientGram | None = None


NEEDED = {"alignment": ("target_gradient", "training_gradient"), "linear_probe": ("probe",)}


def round_for(
    settings: Online,
    train: Train,
    score: Score,
    target_gradient: TargetGradientAt | None,
    training_gradient: TrainingGradientAt | None,
    probe: Probe | None,
) -> Callable[..., Round[Any]]:
    """The round that the reward asks for, in this world. Raises ValueError if the world cannot play it."""
    parts = {"target_gradient": target_gradient, "training_gradient": training_gradient, "probe": probe}
    needed = NEEDED.get(settings.reward, ())
    if missing := " and ".join(name for name in needed if parts[name] is None):
        raise ValueError(f"reward {settings.reward} needs {missing}; give search that, or use leave_one_out")
    if settings.reward == "alignment":
        assert target_gradient is not None
        assert training_gradient is not None
        return partial(
            align_gradients, train=train, target_gradient=target_gradient, training_gradient=training_gradient
        )
    if settings.reward == "linear_probe":
        assert probe is not None
        return partial(probe_samples, train=train, probe=probe)
    return partial(race_copies, train=train, score=score)


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
    """Algorithm 1: N copies train, each under its sample; their scores judge them; they meet in the next model."""
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
    """Ours: one model trains without what is searched, so that val's gradient asks for what its training lacks; then
    every sample's own gradient is compared with that."""
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
    """Ours: one model trains without what is searched; then every sample trains a classifier on its features."""
    samples = distribution.sample(settings.copies, stream(seed, "samples", index))
    trained = train_one_model(train, state, index, len(samples), parallel)
    rewards, unsound = probe(model_of(trained), samples, index, parallel)
    faults = tuple(unsound.get(n, "") for n in range(len(samples)))
    if not np.isfinite(rewards).any():
        raise ValueError(f"no sample of trunk {index} has a score ({join_reasons(faults)}); use a smaller sigma")
    return Round(samples=samples, rewards=rewards, scores=rewards, faults=faults, state=trained)


def train_one_model(train: Train, state: State, index: int, samples: int, parallel: Parallel) -> State:
    """The one model after the trunk. Raises ValueError where it is lost."""
    trained, fault = outcome(parallel(attempt, [(train, state, None, index, 0)])[0])
    if trained is None:
        raise all_lost_error(index, samples, [fault])
    return trained


# --- copies: training and loss of a trunk


def attempt(train: Train, state: State, sample: Any, trunk: int, copy: int) -> tuple[State | None, str]:
    """The trained copy, back where it started from, or none and the reason."""
    try:
        trained = on_device_of(state, train(state, sample, trunk, copy))
    except Diverged as error:
        return None, str(error)
    finite = all(bool(torch.isfinite(value).all()) for value in trained.values())
    return (trained, "") if finite else (None, "its weights are no longer finite")


def outcome(result: tuple[State | None, str] | WorkerDied) -> tuple[State | None, str]:
    return (None, result.reason) if isinstance(result, WorkerDied) else result


def on_device_of(state: State, other: State) -> State:
    """The other state on the state's device."""
    device = next(iter(state.values())).device
    return {key: value.to(device) for key, value in other.items()}


def require_survivor(trunk: int, rewards: Float64[np.ndarray, " n"], faults: Sequence[str]) -> None:
    if not np.isfinite(rewards).any():
        raise all_lost_error(trunk, len(rewards), faults)


def all_lost_error(trunk: int, copies: int, faults: Sequence[str]) -> ValueError:
    """No copy is left: why, and what to do."""
    remedy = (
        "a process that is killed usually lacks memory: lower parallel.workers"
        if WorkerDied().reason in faults
        else "lower train.recipe.learning_rate or raise train.recipe.warmup"
    )
    return ValueError(f"all {copies} copies were lost in trunk {trunk} ({join_reasons(faults)}); {remedy}")


def join_reasons(faults: Sequence[str]) -> str:
    """Each reason once."""
    return "; ".join(sorted(set(faults)))
