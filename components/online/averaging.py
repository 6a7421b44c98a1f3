"""Combine the copies of a trunk into the model that the next trunk starts from: their mean, or the best of them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from components.training.loop import State

# --- the weight of each surviving copy in the next model


def best_alone(rewards: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    weights = np.zeros(len(rewards))
    weights[rewards.argmax()] = 1.0
    return weights


def equal_weights(rewards: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.full(len(rewards), 1 / len(rewards))


BROADCASTS = {"best": best_alone, "average": equal_weights}


def broadcast(copies: Sequence[State | None], rewards: Float64[np.ndarray, " n"], rule: str) -> State:
    """Return the model that the next trunk starts from; copies that were lost in this trunk do not count."""
    alive = [copy for copy, reward in zip(copies, rewards, strict=True) if copy is not None and np.isfinite(reward)]
    return mean_state(alive, BROADCASTS[rule](rewards[np.isfinite(rewards)]))


def mean_state(states: Sequence[State], weights: Float64[np.ndarray, " m"] | None = None) -> State:
    """Return the weighted mean of weights, momentum and batch-norm buffers; integer entries are the first state's."""
    shares = np.full(len(states), 1 / len(states)) if weights is None else weights
    parts = [(float(share), state) for share, state in zip(shares, states, strict=True) if share > 0]
    first = parts[0][1]
    if len(parts) == 1:
        return first
    return {key: weighted_sum([(share, state[key]) for share, state in parts]) for key in first}


def weighted_sum(parts: Sequence[tuple[float, Float[Tensor, "*shape"] | Int64[Tensor, "*shape"]]]) -> Tensor:
    """Sum in double precision, so that the mean of equal copies is that copy to the last bit; on the first's device."""
    first = parts[0][1]
    if not first.is_floating_point():
        return first
    total = torch.zeros_like(first, dtype=torch.float64)
    for share, value in parts:
        total.add_(value.to(total.device), alpha=share)
    return total.to(first.dtype)
