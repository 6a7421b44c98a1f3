"""An additive model of all scores so far, and the best networks that it expects within the limits (ours).

x  one-hot blocks of all layers (p)             y  log odds of a score
beta  effect of each layer's block (p): y = level of the stage + beta x, by ridge regression
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from components.architecture.budget import BINS, Budget, Limit
from components.architecture.search import Scored
from components.architecture.space import Architecture, Space, candidates

PENALTIES = tuple(10.0**power for power in np.arange(-2, 3.1, 0.5))
"""Ridge penalties that generalised cross-validation chooses from (ours)."""
LEAST, MOST = 0.001, 0.99
"""Range that scores are clipped to (ours): nearer to 1 the log odds of an accuracy are noise, and chance is 0.001 with
a thousand classes."""


@dataclass(frozen=True, kw_only=True)
class Additive:
    """A fitted model: log odds of a score = level of the stage + effect of each layer's block."""

    columns: Mapping[tuple[int, str], int]
    effects: Float[np.ndarray, " p"]
    covariance: Float[np.ndarray, "p p"]
    level: float
    mean_row: Float[np.ndarray, " p"]
    """Mean row of the newest stage; `level` is that stage's mean target, so that predictions are for its weights."""

    def predict(self, architecture: Architecture) -> tuple[float, float]:
        """Return the expected score and its standard error (to first order)."""
        x = row_of(self.columns, architecture) - self.mean_row
        score = float(1 / (1 + np.exp(-(self.level + x @ self.effects))))
        return score, score * (1 - score) * float(np.sqrt(max(0.0, x @ self.covariance @ x)))


def log_odds(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the log odds of scores in 0..1, clipped to stay finite.

    A better block raises the log odds of a good and of a bad network alike; scores themselves saturate, and sums of
    effects on them leave 0..1.
    """
    inside = np.clip(scores, LEAST, MOST)
    result: np.ndarray = np.log(inside / (1 - inside))
    return result


def row_of(columns: Mapping[tuple[int, str], int], architecture: Architecture) -> Float[np.ndarray, " p"]:
    """Return the one-hot blocks of all layers."""
    row = np.zeros(len(columns))
    row[[columns[place] for place in enumerate(architecture)]] = 1
    return row


def fit_additive(space: Space, scores: Sequence[Scored]) -> Additive:
    """Fit block effects by ridge regression, with every stage centred because shared weights improve over stages."""
    places = [(layer, block) for layer in range(len(space.layers)) for block in candidates(space, layer)]
    columns = {place: index for index, place in enumerate(places)}
    rows = np.array([row_of(columns, one.architecture) for one in scores])
    targets = log_odds(np.array([one.score for one in scores]))
    stages = np.array([one.stage for one in scores])
    level, mean_row = 0.0, np.zeros(len(columns))
    for stage in np.unique(stages):
        here = stages == stage
        level, mean_row = float(targets[here].mean()), rows[here].mean(axis=0)
        rows[here] -= mean_row
        targets[here] -= level
    effects, covariance = ridge(rows, targets, freedom=len(targets) - len(np.unique(stages)))
    return Additive(columns=columns, effects=effects, covariance=covariance, level=level, mean_row=mean_row)


def ridge(
    rows: Float[np.ndarray, "n p"], targets: Float[np.ndarray, " n"], freedom: int
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, "p p"]]:
    """Return coefficients and their covariance at the penalty with the smallest generalised cross-validation error.

    `freedom`: number of observations minus that of means already subtracted.
    """
    values, basis = np.linalg.eigh(rows.T @ rows)
    values = np.maximum(values, 0)
    moments = basis.T @ (rows.T @ targets)
    best: tuple[float, float, float] | None = None
    for penalty in PENALTIES:
        residual = targets - rows @ (basis @ (moments / (values + penalty)))
        left = max(1e-6, freedom - float(np.sum(values / (values + penalty))))
        error = float(residual @ residual)
        if best is None or error / left**2 < best[0]:
            best = (error / left**2, penalty, error / left)
    assert best is not None
    _, penalty, variance = best
    inverse = basis / (values + penalty) @ basis.T
    return basis @ (moments / (values + penalty)), variance * inverse


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Values of the best ends (the blocks from a layer on), by the model."""

    effects: list[dict[str, float]]
    """[layer]: effect of each block."""
    values: list[Float[np.ndarray, "limits bins"]]
    """[layer][k, s]: value of the best end from that layer on that takes at most s bins of limit k (rounded up)."""


def best_ends(budget: Budget, model: Additive) -> Ends:
    """Solve a knapsack for each limit alone, which is exact up to the rounding of costs to bins."""
    layers = range(len(budget.extras))
    effects = [{b: float(model.effects[model.columns[layer, b]]) for b in budget.extras[layer]} for layer in layers]
    values = [np.zeros((len(budget.limits), BINS + 1))]
    for layer in reversed(layers):
        best = np.full((len(budget.limits), BINS + 1), -np.inf)
        for k, limit in enumerate(budget.limits):
            for block, extra in limit.extras[layer].items():
                bins = bins_of(extra, limit)
                if bins <= BINS:
                    value = effects[layer][block] + values[0][k, : BINS + 1 - bins]
                    best[k, bins:] = np.maximum(best[k, bins:], value)
        values.insert(0, best)
    return Ends(effects=effects, values=values)


def bins_of(extra: float, limit: Limit) -> int:
    return int(np.ceil(extra / limit.bin))


def finish(prefix: Architecture, budget: Budget, ends: Ends) -> Architecture:
    """Complete the prefix, which has a completion within the limits, by the best end that fits.

    Under several limits it goes block by block: of the blocks that leave an end within all limits, it takes the one
    with the largest `promise`.
    """
    architecture, left = prefix, budget.left(prefix)
    for layer in range(len(prefix), len(budget.extras)):
        after = {block: budget.after(left, layer, block) for block in budget.extras[layer]}
        fitting = [block for block in after if budget.fits(layer + 1, after[block])]
        block = max(fitting, key=lambda block: promise(block, layer, left, budget, ends))
        architecture, left = (*architecture, block), after[block]
    return architecture


def promise(block: str, layer: int, left: Float[np.ndarray, " limits"], budget: Budget, ends: Ends) -> float:
    """Return the smallest value, over the limits, of the best end that begins with the block."""
    promises = []
    for k, limit in enumerate(budget.limits):
        bins = limit.bins(float(left[k])) - bins_of(limit.extras[layer][block], limit)
        promises.append(ends.values[layer + 1][k, bins] if bins >= 0 else -np.inf)
    return ends.effects[layer][block] + float(min(promises))
