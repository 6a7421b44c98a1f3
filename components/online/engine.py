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
from components.online.controllers import Answers, Controller, Distribution, first_controller
from components.online.rewards import Ask, Probe, Pull, Score, alignments, judge, model_of
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
    answers: Answers | None = field(default=None, repr=False, compare=False)
    """`alignment`: what the rewards are cosines of."""


def search(
    distribution: Distribution[S],
    state: State,
    *,
    train: Train,
    score: Score,
    ask: Ask | None = None,
    pull: Pull | None = None,
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
    after `learn_until`, and when all rewards tie. `reward: alignment` needs `ask` and `pull`,
    `linear_probe` needs `probe`.
    Raises `ValueError` when no copy survives a trunk.
    """
    controller = first_controller(settings)
    if after is not None:
        controller, distribution, state = after.controller, distribution.at(after.theta), beside(state, after.state)
    play = round_of(settings, train, score, ask, pull, probe)
    for index in range(0 if after is None else after.index + 1, settings.trunks):
        played = play(distribution, state, index, settings=settings, seed=seed, parallel=parallel)
        samples, rewards, state = played.samples, played.rewards, played.state
        controller, distribution = learn(
            controller, distribution, samples, rewards, played.answers, index=index, settings=settings
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
            answers=played.answers,
        )


def learn(
    controller: Controller,
    distribution: Distribution[S],
    samples: Sequence[S],
    rewards: Float64[np.ndarray, " n"],
    answers: Answers | None = None,
    *,
    index: int,
    settings: Online,
) -> tuple[Controller, Distribution[S]]:
    """What a trunk's rewards teach: nothing after `learn_until`; in warm-up the controller alone learns."""
    if index >= settings.last_learned:
        return controller, distribution
    controller, moved = controller.update(distribution, samples, rewards, answers)
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
    answers: Answers | None = None


NEEDED = {"alignment": ("ask", "pull"), "linear_probe": ("probe",)}


def round_of(
    settings: Online,
    train: Train,
    score: Score,
    ask: Ask | None,
    pull: Pull | None,
    probe: Probe | None,
) -> Callable[..., Round[Any]]:
    """The round that the reward asks for, in this world. Raises ValueError if the world cannot play it."""
    parts = {"ask": ask, "pull": pull, "probe": probe}
    needed = NEEDED.get(settings.reward, ())
    if missing := " and ".join(name for name in needed if parts[name] is None):
        raise ValueError(f"reward {settings.reward} needs {missing}; give search that, or use leave_one_out")
    if settings.reward == "alignment":
        assert ask is not None
        assert pull is not None
        return partial(aligned, train=train, ask=ask, pull=pull)
    if settings.reward == "linear_probe":
        assert probe is not None
        return partial(probed, train=train, probe=probe)
    return partial(raced, train=train, score=score)


def raced(
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
    refuse_extinction(index, rewards, faults)
    after = broadcast(copies, rewards, settings.broadcast)
    return Round(samples=samples, rewards=rewards, scores=scores, faults=faults, state=after)


def aligned(
    distribution: Distribution[S],
    state: State,
    index: int,
    *,
    train: Train,
    ask: Ask,
    pull: Pull,
    settings: Online,
    seed: int,
    parallel: Parallel,
) -> Round[S]:
    """Ours: one model trains without what is searched, so that val's gradient asks for what its training lacks; then
    every sample's own gradient is compared with that."""
    samples = distribution.probes(settings.copies, stream(seed, "samples", index))
    trained = trained_alone(train, state, index, len(samples), parallel)
    rewards, answers, unsound = alignments(trained, samples, index, pull=pull, ask=ask, parallel=parallel)
    faults = tuple(unsound.get(n, "") for n in range(len(samples)))
    refuse_extinction(index, rewards, faults)
    return Round(samples=samples, rewards=rewards, scores=rewards, faults=faults, state=trained, answers=answers)


def probed(
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
    trained = trained_alone(train, state, index, len(samples), parallel)
    rewards, unsound = probe(model_of(trained), samples, index, parallel)
    faults = tuple(unsound.get(n, "") for n in range(len(samples)))
    if not np.isfinite(rewards).any():
        raise ValueError(f"no sample of trunk {index} has a score ({said(faults)}); use a smaller sigma")
    return Round(samples=samples, rewards=rewards, scores=rewards, faults=faults, state=trained)


def trained_alone(train: Train, state: State, index: int, samples: int, parallel: Parallel) -> State:
    """The one model after the trunk. Raises ValueError where it is lost."""
    trained, fault = outcome(parallel(attempt, [(train, state, None, index, 0)])[0])
    if trained is None:
        raise extinction(index, samples, [fault])
    return trained


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
    if not np.isfinite(rewards).any():
        raise extinction(trunk, len(rewards), faults)


def extinction(trunk: int, copies: int, faults: Sequence[str]) -> ValueError:
    """No copy is left: why, and what to do."""
    remedy = (
        "a process that is killed usually lacks memory: lower parallel.workers"
        if WorkerDied().reason in faults
        else "lower train.recipe.learning_rate or raise train.recipe.warmup"
    )
    return ValueError(f"all {copies} copies were lost in trunk {trunk} ({said(faults)}); {remedy}")


def said(faults: Sequence[str]) -> str:
    """Each reason once."""
    return "; ".join(sorted(set(faults)))
