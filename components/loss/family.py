"""The family of losses that AM-LFS searches, and known losses as points of it.

Li et al., "AM-LFS: AutoML for Loss Function Search", ICCV 2019, section 3 (methods.md section 3).

    L = -log tau(p),   p = e^{n t(c)} / (e^{n t(c)} + sum_{j != y} e^{z_j}),   n = |W_y| |x|,   c = cos(theta_y)

    x    features of an image, b of d          t    [-1, 1] -> R: intra-class against inter-class significance
    W    classifier weight, k of d, no bias    tau  [0, 1] -> [0, 1]: how hard and easy images weigh
    z    logits x W^T, norms kept              q    knots of t and of tau, equally spaced
    y    label                                 theta  what is searched: q numbers of t, then q of tau

Unlike the paper, whose free slope and intercept an interval make tau negative or falling for nearly every sample, t and
tau are continuous and rise: their values at the knots are cumulated softplus. theta = 0 is cross-entropy.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

Curve = Callable[[Float64[np.ndarray, " g"]], Float64[np.ndarray, " g"]]

SLOWEST = 1e-4
"""Least increment between knots, as a share of cross-entropy's: keeps log tau away from -inf in float32 (ours)."""
MARGIN = 0.25
"""Cosine a unit of theta adds to t: norms of about 20 make a logit of 5 of it, so finer than the increments (ours)."""
SHORTEST = 1e-12
"""Least norm a logit is divided by to get a cosine."""


class SearchedLoss(nn.Module):
    """One member of the family, a criterion: (features, classifier weight without bias, labels) -> mean loss.

    With label smoothing e the loss is (1 - e) times the mean of -log tau(p) plus e times the mean over classes of
    -log softmax of the modified logits: `F.cross_entropy(label_smoothing=e)` where t and tau are the identity.
    """

    excess: Tensor
    excess_slope: Tensor
    tau: Tensor
    tau_slope: Tensor

    def __init__(self, *, t: list[float], tau: list[float], scale: float = 1.0, label_smoothing: float = 0.0) -> None:
        """Values of t and tau at equally spaced knots over [-1, 1] and [0, 1]; `scale` multiplies the loss.

        Raises ValueError where the values are no member of the family.
        """
        super().__init__()
        refuse_outsiders(t, tau)
        self.knots = {"t": list(t), "tau": list(tau)}
        self.scale = scale
        self.label_smoothing = label_smoothing
        places = np.linspace(-1, 1, len(t))
        excess = np.asarray(t) - places  # what t adds to the cosine: exactly 0 for cross-entropy
        self.register_buffer("excess", torch.tensor(excess, dtype=torch.float32))
        self.register_buffer("excess_slope", torch.tensor(np.diff(excess) / np.diff(places), dtype=torch.float32))
        self.register_buffer("tau", torch.tensor(tau, dtype=torch.float32))
        self.register_buffer("tau_slope", torch.tensor(np.diff(tau) * (len(tau) - 1), dtype=torch.float32))

    def forward(
        self, features: Float[Tensor, "b d"], weight: Float[Tensor, "k d"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        log_p = self.modified_logits(features, weight, labels).log_softmax(dim=1)
        loss = -self.log_tau(log_p.gather(1, labels[:, None]).squeeze(1)).mean()
        if self.label_smoothing > 0:
            loss = (1 - self.label_smoothing) * loss - self.label_smoothing * log_p.mean()
        return self.scale * loss

    def modified_logits(
        self, features: Float[Tensor, "b d"], weight: Float[Tensor, "k d"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b k"]:
        """The logits with the label's n c replaced by n t(c), written as n c + n (t(c) - c)."""
        logits = features @ weight.T
        norm = torch.linalg.vector_norm(features, dim=1) * torch.linalg.vector_norm(weight, dim=1)[labels]  # b
        cosine = logits.gather(1, labels[:, None]).squeeze(1) / norm.clamp_min(SHORTEST)  # b
        place = (cosine + 1) * 0.5 * len(self.excess_slope)  # in intervals from the left end
        left = place.detach().floor().long().clamp(0, len(self.excess_slope) - 1)
        start = left * (2 / len(self.excess_slope)) - 1
        excess = self.excess[left] + self.excess_slope[left] * (cosine - start)
        return logits.scatter_add(1, labels[:, None], (norm * excess)[:, None])

    def log_tau(self, log_p: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log tau(p) from log p; exact where p itself underflows: before the second knot, tau is tau(0) + slope p."""
        width = 1 / len(self.tau_slope)
        p = log_p.exp()
        inside = p.clamp_min(width)  # the branch that is not chosen must stay finite, or its gradient is nan
        left = (inside.detach() / width).floor().long().clamp(0, len(self.tau_slope) - 1)
        beyond = (self.tau[left] + self.tau_slope[left] * (inside - left * width)).log()
        first = torch.logaddexp(self.tau_slope[0].log() + log_p, self.tau[0].log().expand_as(log_p))
        return torch.where(p < width, first, beyond)

    def at_scale(self, scale: float) -> "SearchedLoss":
        """The same loss times another constant, on the same device."""
        return SearchedLoss(**{**self.to_json(), "scale": scale}).to(self.tau.device)

    def to_json(self) -> dict[str, Any]:
        """The arguments that make this loss again."""
        return {**self.knots, "scale": self.scale, "label_smoothing": self.label_smoothing}


def refuse_outsiders(t: list[float], tau: list[float]) -> None:
    if min(len(t), len(tau)) < 2:
        raise ValueError(f"t has {len(t)} and tau {len(tau)} values; a line needs at least 2 knots")
    if not np.isfinite([*t, *tau]).all():
        raise ValueError("t and tau must be finite numbers at every knot")
    if np.any(np.diff(t) < 0) or np.any(np.diff(tau) < 0):
        raise ValueError("t and tau must not fall from one knot to the next")
    if tau[0] < 0 or tau[1] <= 0 or tau[-1] != 1:
        raise ValueError("tau must start at 0 or above, be positive from its second knot on and end at exactly 1")


def read_loss(path: Path) -> SearchedLoss:
    """The loss that a `loss.json` holds."""
    return SearchedLoss(**json.loads(path.read_text(encoding="utf-8")))


# --- theta: unconstrained numbers <-> values at the knots


def decode(theta: Float64[np.ndarray, " p"], label_smoothing: float = 0.0) -> SearchedLoss:
    """The loss of the unconstrained theta = (margin of t, increments of t, start of tau, increments of tau).

    theta = 0 is cross-entropy. t is 0 at cosine 0 but for a margin of `MARGIN` times its theta (AM-softmax: below 0).
    tau starts at r / (1 + r), r = max(0, theta): above 0 the loss of a hopeless image is bounded and its gradient
    vanishes, which is what resists wrong labels; otherwise it is cross-entropy's. tau's increments are divided by
    their sum, so that it ends at 1.
    """
    assert len(theta) % 2 == 0, "as many numbers for tau as for t"
    of_t, of_tau = np.split(theta, 2)
    places = np.linspace(-1, 1, len(of_t))
    excess = cumulate(0.0, np.diff(places) * (increments(of_t[1:]) - 1))
    t = places + excess - np.interp(0.0, places, excess) + MARGIN * of_t[0]
    odds = max(0.0, float(of_tau[0]))
    start = odds / (1 + odds)
    rising = increments(of_tau[1:])
    tau = cumulate(start, (1 - start) * rising / rising.sum())
    tau[-1] = 1.0
    return SearchedLoss(t=t.tolist(), tau=np.minimum(tau, 1).tolist(), label_smoothing=label_smoothing)


def increments(theta: Float64[np.ndarray, " i"]) -> Float64[np.ndarray, " i"]:
    """softplus(theta + log(e - 1)): positive, and 1 at theta = 0."""
    steps: Float64[np.ndarray, " i"] = np.maximum(np.logaddexp(0.0, theta + math.log(math.e - 1)), SLOWEST)
    return steps


def cumulate(start: float, steps: Float64[np.ndarray, " i"]) -> Float64[np.ndarray, " i+1"]:
    return np.concatenate([[start], start + np.cumsum(steps)])


# --- known losses


@dataclass(frozen=True, kw_only=True)
class Known:
    """A published loss in the family's terms (methods.md section 3)."""

    t: Curve
    tau: Curve


def identity(x: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
    return x


def angular(margin: int) -> Curve:
    """A-softmax (SphereFace) and L-softmax: (-1)^k cos(m theta) - 2 k for theta in [k pi / m, (k + 1) pi / m]."""

    def t(x: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
        angle = np.arccos(np.clip(x, -1, 1))
        k = np.minimum(np.floor(margin * angle / np.pi), margin - 1)
        values: Float64[np.ndarray, " g"] = (-1) ** k * np.cos(margin * angle) - 2 * k
        return values

    return t


def arc(margin: float) -> Curve:
    """ArcFace: cos(theta + m). It falls between theta = pi - m and pi, where no member of the family follows."""
    return lambda x: np.cos(np.arccos(np.clip(x, -1, 1)) + margin)


def focal(alpha: float) -> Curve:
    """p^((1 - p)^alpha): the focal loss -(1 - p)^alpha log p."""
    return lambda p: np.where(p > 0, np.maximum(p, 1e-300) ** ((1 - p) ** alpha), 0.0)


KNOWN: dict[str, Known] = {
    "softmax": Known(t=identity, tau=identity),
    "a_softmax": Known(t=angular(4), tau=identity),
    "l_softmax": Known(t=angular(2), tau=identity),
    "am_softmax": Known(t=lambda x: x - 0.35, tau=identity),
    "arcface": Known(t=arc(0.5), tau=identity),
    "focal": Known(t=identity, tau=focal(2.0)),
}
"""With usual constants: m = 4 (SphereFace), 2 (L-softmax), .35 (AM-softmax), .5 (ArcFace), alpha = 2 (focal)."""


def closest(known: Known, knots: int) -> SearchedLoss:
    """A member of the family near the known loss in the largest difference."""
    t = fit_knots(known.t, -1.0, 1.0, knots)
    tau = np.clip(fit_knots(known.tau, 0.0, 1.0, knots), 0, 1)
    tau[-1] = 1.0
    return SearchedLoss(t=t.tolist(), tau=tau.tolist())


def representation_error(known: Known, knots: int) -> tuple[float, float]:
    """Largest difference of t on [-1, 1] and of tau on [0, 1] between the known loss and `closest`."""
    member = closest(known, knots).knots
    return sup_error(known.t, member["t"], -1.0, 1.0), sup_error(known.tau, member["tau"], 0.0, 1.0)


def sup_error(curve: Curve, values: list[float], low: float, high: float) -> float:
    grid = np.linspace(low, high, GRID)
    return float(np.abs(np.interp(grid, np.linspace(low, high, len(values)), values) - curve(grid)).max())


GRID, ROUNDS = 2001, 300


def fit_knots(curve: Curve, low: float, high: float, knots: int) -> Float64[np.ndarray, " q"]:
    """Rising values at the knots whose lines stay close to the curve in the largest difference.

    The best rising curve under that measure first (half-way between the running maximum from the left and the running
    minimum from the right), then Lawson's algorithm: least squares, weights multiplied by the error, again.
    """
    grid = np.linspace(low, high, GRID)
    raw = curve(grid)
    rising = (np.maximum.accumulate(raw) + np.minimum.accumulate(raw[::-1])[::-1]) / 2
    hats = np.stack([np.interp(grid, np.linspace(low, high, knots), row) for row in np.eye(knots)], axis=1)  # g q
    weight = np.full(GRID, 1 / GRID)
    best, least = hats[:: GRID // knots][:knots, 0], math.inf
    for _ in range(ROUNDS):
        root = np.sqrt(weight)[:, None]
        values = np.maximum.accumulate(np.linalg.lstsq(hats * root, rising * root[:, 0], rcond=None)[0])
        error = np.abs(hats @ values - rising)
        if error.max() < least:
            best, least = values, error.max()
        if error.max() < 1e-12:
            break
        weight = weight * error
        weight /= weight.sum()
    return best
