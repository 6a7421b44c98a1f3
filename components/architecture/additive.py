"""One additive model of all scores so far, and the best networks that it expects within the limit (ours).

x  one-hot blocks of all layers (p)             y  log odds of a score
beta  effect of each layer's block (p): y = level of the stage + beta x, by ridge regression
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from components.architecture.budget import BINS, Budget
from components.architecture.search import Scored
from components.architecture.space import Architecture, Space, candidates

PENALTIES = tuple(10.0**power for power in np.arange(-2, 3.1, 0.5))
"""Ridge penalties that generalised cross-validation chooses from (ours)."""
SURE = 0.01
"""Accuracies nearer to 0 or 1 than this count as this near: beyond it their log odds are noise (ours)."""


@dataclass(frozen=True, kw_only=True)
class Additive:
    """Log odds of a score = level of the stage + effect of each layer's block: ridge over all scores so far."""

    columns: Mapping[tuple[int, str], int]
    effects: Float[np.ndarray, " p"]
    covariance: Float[np.ndarray, "p p"]
    level: float
    mean_row: Float[np.ndarray, " p"]
    """Level and mean row of the newest stage: predictions are for its weights."""

    def predict(self, architecture: Architecture) -> tuple[float, float]:
        """Expected score and its standard error (to first order)."""
        x = row_of(self.columns, architecture) - self.mean_row
        score = float(1 / (1 + np.exp(-(self.level + x @ self.effects))))
        return score, score * (1 - score) * float(np.sqrt(max(0.0, x @ self.covariance @ x)))


def log_odds(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Log odds of shares in 0..1, those at the ends kept finite. A better block lifts the log odds of a good and of a
    bad network alike; accuracies themselves saturate, and their sums leave 0..1."""
    inside = np.clip(scores, SURE, 1 - SURE)
    result: np.ndarray = np.log(inside / (1 - inside))
    return result


def row_of(columns: Mapping[tuple[int, str], int], architecture: Architecture) -> Float[np.ndarray, " p"]:
    """One-hot blocks of all layers."""
    row = np.zeros(len(columns))
    row[[columns[place] for place in enumerate(architecture)]] = 1
    return row


def fit_additive(space: Space, scores: Sequence[Scored]) -> Additive:
    """Ridge on block effects; stages are centred, because the shared weights improve from stage to stage."""
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
    """Coefficients and their covariance, at the penalty of least generalised cross-validation error.

    `freedom`: observations less the means already taken out.
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


def best_ends(budget: Budget, model: Additive) -> list[list[str]]:
    """[layer][s]: the block of that layer with which the best end within s bins begins (costs are rounded up)."""
    value_of_rest = np.zeros(BINS + 1)
    ends: list[list[str]] = []
    for layer in reversed(range(len(budget.extras))):
        blocks = list(budget.extras[layer])
        values = np.full((len(blocks), BINS + 1), -np.inf)
        for index, block in enumerate(blocks):
            bins = int(np.ceil(budget.extras[layer][block] / budget.unit))
            effect = model.effects[model.columns[layer, block]]
            if bins <= BINS:
                values[index, bins:] = effect + value_of_rest[: BINS + 1 - bins]
        ends.append([blocks[index] for index in values.argmax(axis=0)])
        value_of_rest = values.max(axis=0)
    return ends[::-1]


def finish(prefix: Architecture, budget: Budget, ends: Sequence[Sequence[str]]) -> Architecture:
    """The prefix with the best end that fits."""
    architecture, spare = prefix, budget.spare(prefix)
    for layer in range(len(prefix), len(ends)):
        block = ends[layer][min(BINS, int(spare / budget.unit))]
        architecture = (*architecture, block)
        spare -= budget.extras[layer][block]
    return architecture
