"""The paper's own parametrisation of the loss (Li et al., ICCV 2019), a control: most samples give no loss at all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from components.loss.family import LOWEST, Member, interval
from components.loss.search import LossWorld
from components.online.gaussian import Gaussian
from components.settings.loss import Loss
from components.training.loop import State


class LiteralLoss(Member):
    """A free slope and intercept for each of M intervals of t and tau.

    Nothing keeps tau positive, rising or continuous: where tau is not positive the loss is nan, and the copy is lost.
    """

    t: Tensor
    tau: Tensor

    def __init__(
        self,
        *,
        t: list[list[float]],
        tau: list[list[float]],
        scale: float = 1.0,
        label_smoothing: float = 0.0,
        label_logit: float = 0.0,
        class_logits: list[float] | None = None,
    ) -> None:
        """(slope, intercept) of each interval: M of them over [-1, 1] and over [0, 1]."""
        super().__init__(
            scale=scale, label_smoothing=label_smoothing, label_logit=label_logit, class_logits=class_logits
        )
        self.lines = {"t": [list(line) for line in t], "tau": [list(line) for line in tau]}
        self.register_buffer("t", torch.tensor(t, dtype=torch.float32))
        self.register_buffer("tau", torch.tensor(tau, dtype=torch.float32))

    def excess_at(self, cosine: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        slope, intercept = self.t[interval((cosine + 1) * 0.5, len(self.t))].unbind(dim=1)
        return (slope - 1) * cosine + intercept

    def log_tau(self, log_p: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        p = log_p.exp()
        slope, intercept = self.tau[interval(p, len(self.tau))].unbind(dim=1)
        return (slope * p + intercept).log()

    def curve(self, part: str, at: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
        lines = np.asarray(self.lines[part])
        share = (at - LOWEST[part]) / (1 - LOWEST[part])
        rows = lines[np.clip(np.floor(share * len(lines)).astype(int), 0, len(lines) - 1)]
        values: Float64[np.ndarray, " g"] = rows[:, 0] * at + rows[:, 1]
        return values

    def shape(self) -> dict[str, Any]:
        return dict(self.lines)


def decode_literal(theta: Float64[np.ndarray, " p"], label_smoothing: float = 0.0) -> LiteralLoss:
    """theta = slopes of t less 1, intercepts of t, and the same of tau: 0 is cross-entropy, as long as p does not
    underflow."""
    parts = np.split(theta, 4)
    lines = [np.stack([1 + slope, intercept], axis=1).tolist() for slope, intercept in (parts[:2], parts[2:])]
    return LiteralLoss(t=lines[0], tau=lines[1], label_smoothing=label_smoothing)


class LiteralWorld(LossWorld):
    """A search of such losses, from `literal_start`."""

    def loss(self, theta: Sequence[float] | Float64[np.ndarray, " p"], state: State) -> LiteralLoss:
        return decode_literal(np.asarray(theta), self.recipe.label_smoothing)


def literal_start(settings: Loss) -> Gaussian:
    """Around cross-entropy."""
    return Gaussian(theta=np.zeros(literal_length(settings.knots)), sigma=settings.sigma)


def literal_length(knots: int) -> int:
    """Numbers for as many intervals as lie between so many knots."""
    return 4 * (knots - 1)
