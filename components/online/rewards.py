"""Rewards of the copies or samples of a trunk, from measurements on val.

`own` is the paper's reward (Lin et al., ICCV 2019); the others are ours. `own` and `leave_one_out` need a trunk of
training for every sample, `alignment` a single gradient. `linear_probe` is the world's own function, a `Probe`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64

from components.online.averaging import mean_state
from components.online.controllers import NOTHING, GradientGram
from components.training.loop import Diverged, State
from components.training.parallel import Parallel, WorkerDied

Score = Callable[[State], float]
TrainingGradientAt = Callable[[State, Any, int, int], State]
"""(state, sample or None, trunk, copy) -> minus the gradient of the loss on a few training images, the same ones for
all samples of a trunk; None stands for plain training. Raises `Diverged`."""


@dataclass(frozen=True, kw_only=True)
class TargetGradient:
    """The gradient that training lacks on val at a state of the model, with signs as in a descent direction."""

    halves: tuple[State, State]
    """The target gradient of each half of val: two estimates with independent noise."""
    train_loss: float = math.nan
    """See `GradientGram.train_loss`."""
    val_loss: float = math.nan
    """See `GradientGram.val_loss`."""


TargetGradientAt = Callable[[State, int], TargetGradient]
"""(state, trunk) -> the target gradient."""


Vector = Float64[np.ndarray, " n"]
Gradient = Float[np.ndarray, " p"]
Copies = Sequence[State | None]
Faults = Mapping[int, str]
"""The reason why a copy or sample has no reward, by its index."""
Probe = Callable[[State, Sequence[Any], int, Parallel], tuple[Vector, Faults]]
"""(state, samples, trunk, parallel) -> the val score of a classifier trained under each sample on the model's features;
nan, and the reason, where there is none."""
BLOCK = 1 << 16
"""Number of parameters whose inner products are computed at a time."""
NOT_FINITE = "its score on val is not finite"
UNSOUND = "the gradient on val or on plain training images is not finite"


class Unscored(Exception):
    """Raised when workers died while they scored copies; `faults` says which copies and why."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self.faults = faults


def own_score(copies: Copies, score: Score, parallel: Parallel) -> tuple[Vector, Vector]:
    """Reward each copy by its own score, as in the paper; return rewards and scores."""
    scores = scores_of(dict(enumerate(copies)), len(copies), score, parallel)
    return scores, scores


def leave_one_out(copies: Copies, score: Score, parallel: Parallel) -> tuple[Vector, Vector]:
    """Reward each copy by minus the score of the mean of the *other* copies; return rewards and scores.

    The lower that score is, the more the copy contributes to the mean. A lone survivor gets its own score.
    """
    alive = alive_among(copies)
    if len(alive) < 2:
        return own_score(copies, score, parallel)
    models = {n: model_of(copy) for n, copy in alive.items()}  # momentum is not scored
    others = {n: mean_state([model for m, model in models.items() if m != n]) for n in models}
    scores = scores_of(others, len(copies), score, parallel)
    return -scores, scores


REWARDS: dict[str, Callable[[Copies, Score, Parallel], tuple[Vector, Vector]]] = {
    "own": own_score,
    "leave_one_out": leave_one_out,
}


def judge(rule: str, copies: Copies, score: Score, parallel: Parallel) -> tuple[Vector, Vector, Faults]:
    """Return rewards, scores and faults of the copies by the rule.

    Two kinds of copies get no reward: those whose own score is not finite, when they spoil the others' rewards, and
    those whose worker died while scoring. The others are rewarded without them.
    """
    alive = alive_among(copies)
    try:
        rewards, scores = REWARDS[rule](copies, score, parallel)
        if np.isfinite(rewards[list(alive)]).all():
            return rewards, scores, {}
        unsound = np.flatnonzero(~np.isfinite(own_score(copies, score, parallel)[0])).tolist()
        faults = {n: NOT_FINITE for n in alive if n in unsound}
        if not faults:  # each copy alone is sound and their means are not: no copy can be blamed
            return np.full(len(copies), np.nan), scores, dict.fromkeys(alive, NOT_FINITE)
    except Unscored as unscored:
        faults = dict(unscored.faults)
    left = [None if n in faults else copy for n, copy in enumerate(copies)]
    rewards, scores, more = judge(rule, left, score, parallel)
    return rewards, scores, faults | dict(more)


def alignments(
    state: State,
    samples: Sequence[Any],
    trunk: int,
    *,
    training_gradient: TrainingGradientAt,
    target_gradient: TargetGradientAt,
    parallel: Parallel,
) -> tuple[Vector, GradientGram, Faults]:
    """Return each sample's reward, the cosine of its added gradient with the target, the Gram matrix, and faults.

        added_n = training gradient under s_n - plain training gradient
        target  = mean of the halves of `TargetGradient`

    The reward is 0 for a sample that adds next to nothing, and nan, with a fault, for one whose gradient failed. To
    first order in the step, the cosine measures the sample's contribution to val: whatever its strength, without the
    step that training takes anyway, and with no noise but the images'. GRAD-MATCH (Killamsetty et al., ICML 2021)
    weighs training images by how well their gradients match val's; this weighs ways to train on all of them.
    """
    model = model_of(state)
    plain = flat(training_gradient(model, None, trunk, 0))
    target = target_gradient(model, trunk)
    halves = [flat(half) for half in target.halves]
    if not all(np.isfinite(values).all() for values in (plain, *halves)):
        results: list[Gradient | str | WorkerDied] = [UNSOUND] * len(samples)
    else:
        results = parallel(
            attempt_gradient, [(training_gradient, model, sample, trunk, n) for n, sample in enumerate(samples)]
        )
    faults = {n: why for n, result in enumerate(results) if (why := fault_of(result))}
    gradients = [result if isinstance(result, np.ndarray) else None for result in results]
    gradient_gram = GradientGram(
        products=inner_products(gradients, plain, halves), train_loss=target.train_loss, val_loss=target.val_loss
    )
    return cosines(gradient_gram), gradient_gram, faults


def inner_products(
    gradients: Sequence[Gradient | None], plain: Gradient, halves: Sequence[Gradient]
) -> Float64[np.ndarray, "m m"]:
    """Return `GradientGram.products`, computed in double precision.

    It works on blocks of parameters, so that the gradients of a large network are not copied.
    """
    sizes = len(gradients) + len(halves)
    gram, lost = np.zeros((sizes, sizes)), [n for n, gradient in enumerate(gradients) if gradient is None]
    for at in range(0, len(plain), BLOCK):
        part = slice(at, at + BLOCK)
        base = plain[part].astype(np.float64)
        added = [base - base if gradient is None else gradient[part] - base for gradient in gradients]
        every = np.stack([*added, *(each[part].astype(np.float64) for each in halves)])
        gram += every @ every.T  # of itself: the same bits for any number of threads
    gram[lost], gram[:, lost] = np.nan, np.nan
    return gram


def attempt_gradient(
    training_gradient: TrainingGradientAt, state: State, sample: Any, trunk: int, copy: int
) -> Gradient | str:
    """Return the training gradient under the sample as a vector, or the reason why there is none."""
    try:
        values = flat(training_gradient(state, sample, trunk, copy))
    except Diverged as error:
        return str(error)
    return values if np.isfinite(values).all() else "its gradient is not finite"


def fault_of(result: Gradient | str | WorkerDied) -> str:
    """Return the reason why there is no gradient; empty if there is one."""
    if isinstance(result, WorkerDied):
        return result.reason
    return result if isinstance(result, str) else ""


def cosines(gradient_gram: GradientGram) -> Vector:
    """Return the cosine of each sample's added gradient with the target; nan for a sample that was lost."""
    products = gradient_gram.with_mean_target
    sizes = np.sqrt(np.diag(products))
    added, target = sizes[:-1], sizes[-1]
    small = (added <= NOTHING * target) | ((target == 0) & ~np.isnan(added))
    return np.where(small, 0.0, products[-1, :-1] / np.where(small, 1.0, added * target))


def flat(one: State) -> Gradient:
    """Return all values as one vector, in their own precision."""
    values: Gradient = torch.cat([value.flatten().cpu() for value in one.values()]).numpy()
    return values


def alive_among(copies: Copies) -> dict[int, State]:
    return {n: copy for n, copy in enumerate(copies) if copy is not None}


def scores_of(states: Mapping[int, State | None], count: int, score: Score, parallel: Parallel) -> Vector:
    """Score the copies that have a state; the others of `count` get nan. Raises `Unscored`."""
    present = {n: state for n, state in states.items() if state is not None}
    results = dict(zip(present, parallel(score, [(state,) for state in present.values()]), strict=True))
    if dead := {n: result.reason for n, result in results.items() if isinstance(result, WorkerDied)}:
        raise Unscored(dead)
    scores = np.full(count, np.nan)
    scores[list(results)] = list(results.values())
    return np.where(np.isfinite(scores), scores, np.nan)


def model_of(state: State) -> State:
    """Return the state's parameters and buffers, without momentum."""
    return {key: value for key, value in state.items() if key.startswith("model.")}
