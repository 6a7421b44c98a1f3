"""Rewards of the copies of a trunk, from what can be measured on val.

    w_n  copy n's model        mean  the mean of the copies' models        R_n  its reward, nan for one that is lost

`own` is the paper's (Lin et al., ICCV 2019); the others are ours. Of three of them the sample is
a trunk of training; `alignment` needs a single gradient. A world's `Probe` scores samples in a way of its own.
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
"""(state, sample or None, trunk, copy) -> where a step of training pulls the model: minus the gradient of the loss on a
few training images, under the sample or as training is without one. The same images for all of a trunk."""


@dataclass(frozen=True, kw_only=True)
class TargetGradient:
    """What val asks of training at a state of the model."""

    halves: tuple[State, State]
    """The change of the pull that either half of val asks for: two answers that nothing but the truth has in common."""
    train_loss: float = math.nan
    val_loss: float = math.nan
    """See `GradientGram`."""


TargetGradientAt = Callable[[State, int], TargetGradient]
"""(state, trunk) -> the target."""


Vector = Float64[np.ndarray, " n"]
Gradient = Float[np.ndarray, " p"]
Copies = Sequence[State | None]
Faults = Mapping[int, str]
"""copy -> why it has no reward"""
Probe = Callable[[State, Sequence[Any], int, Parallel], tuple[Vector, Faults]]
"""(state, samples, trunk, parallel) -> the score of what each sample makes of the model's features; nan, and why, where
there is none."""
BLOCK = 1 << 16
"""Parameters whose inner products are taken at a time."""
NOT_FINITE = "its score on val is not finite"
UNSOUND = "the gradient on val or on plain training images is not finite"


class Unscored(Exception):
    """The workers that scored these copies died."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self.faults = faults


def own_score(copies: Copies, score: Score, parallel: Parallel) -> tuple[Vector, Vector]:
    """Each copy's own score, as in the paper."""
    scores = scores_of(dict(enumerate(copies)), len(copies), score, parallel)
    return scores, scores


def leave_one_out(copies: Copies, score: Score, parallel: Parallel) -> tuple[Vector, Vector]:
    """Minus the score of the mean of the *other* copies: the lower that is, the more the copy contributes.

    A lone survivor gets its own score.
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
    """Rewards and scores by the rule; copies that are excluded: one that spoils the others', found by its own score,
    and one whose worker died while scoring."""
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
    """Of each sample the cosine between what it adds to the pull at the state and what val asks for; 0 if it adds
    next to nothing, nan, and why, where there is none. And the `GradientGram` behind them.

        added_n = pull under s_n - plain pull        asked: see `TargetGradient`, the mean of the halves

    To first order in the step this is the sample's contribution to val, whatever its strength, without the step that
    training takes anyway and with no noise but the images'. Unlike GRAD-MATCH (Killamsetty et al., ICML 2021), which
    weighs training images by how their gradients answer val's, this weighs ways to train on all of them.
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
    """The pull under the sample, or why there is none."""
    try:
        values = flat(training_gradient(state, sample, trunk, copy))
    except Diverged as error:
        return str(error)
    return values if np.isfinite(values).all() else "its gradient is not finite"


def fault_of(result: Gradient | str | WorkerDied) -> str:
    """Why there is no pull; empty if there is one."""
    if isinstance(result, WorkerDied):
        return result.reason
    return result if isinstance(result, str) else ""


def cosines(gradient_gram: GradientGram) -> Vector:
    """Of what each sample adds with what val asks for; nan for a sample that was lost."""
    products = gradient_gram.with_mean_target
    sizes = np.sqrt(np.diag(products))
    added, target = sizes[:-1], sizes[-1]
    small = (added <= NOTHING * target) | ((target == 0) & ~np.isnan(added))
    return np.where(small, 0.0, products[-1, :-1] / np.where(small, 1.0, added * target))


def flat(one: State) -> Gradient:
    """All values in a row, as precise as they are."""
    values: Gradient = torch.cat([value.flatten().cpu() for value in one.values()]).numpy()
    return values


def alive_among(copies: Copies) -> dict[int, State]:
    return {n: copy for n, copy in enumerate(copies) if copy is not None}


def scores_of(states: Mapping[int, State | None], count: int, score: Score, parallel: Parallel) -> Vector:
    """Of `count` copies, the scores of those that have a state. Raises `Unscored`."""
    present = {n: state for n, state in states.items() if state is not None}
    results = dict(zip(present, parallel(score, [(state,) for state in present.values()]), strict=True))
    if dead := {n: result.reason for n, result in results.items() if isinstance(result, WorkerDied)}:
        raise Unscored(dead)
    scores = np.full(count, np.nan)
    scores[list(results)] = list(results.values())
    return np.where(np.isfinite(scores), scores, np.nan)


def model_of(state: State) -> State:
    """Parameters and buffers alone."""
    return {key: value for key, value in state.items() if key.startswith("model.")}
