"""The family of losses that AM-LFS searches, and known losses as members of it.

Li et al., "AM-LFS: AutoML for Loss Function Search", ICCV 2019, section 3.

    L = -log tau(p),   p = e^{n t(c)} / (e^{n t(c)} + sum_{j != y} e^{z_j}),   n = |W_y| |x|,   c = cos(theta_y)

    x    features of an image, b of d          t    [-1, 1] -> R: intra-class against inter-class significance
    W    classifier weight, k of d, no bias    tau  [0, 1] -> [0, 1]: how hard and easy images weigh
    z    logits x W^T, norms kept              q    knots of t and of tau, equally spaced
    y    label                                 theta  what is searched: q numbers of t, then q of tau

In the paper each interval has a free slope and intercept, which makes tau negative or falling for nearly every sample.
Here t and tau are continuous and rise: their values at the knots are cumulative sums of softplus. theta = 0 is
cross-entropy. The paper's family is in tests/benchmarks/literal_loss.py. All classes share t and tau; a margin
a + b log n_c of class c, with n_c its number of training images, can be searched too.

    loss = read_loss("loss.json")                                # an nn.Module
    criterion = loss.beginning() if step < 0.1 * steps else loss  # else some classes may never be learned
    criterion(features, network.classifier.weight, labels).backward()
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy.optimize import linprog
from torch import Tensor, nn

Curve = Callable[[Float64[np.ndarray, " g"]], Float64[np.ndarray, " g"]]

SMALLEST_INCREMENT = 1e-4
"""Smallest increment between knots, as a share of cross-entropy's: it keeps log tau above -inf in float32 (ours)."""
MARGIN = 0.1
"""Cosine that one unit of theta adds to t (ours): with norms of about 20, this is 2 on a logit."""
T_FACTOR = 0.3
"""Factor on theta before it bends t (ours); tau uses theta unscaled. Logits multiply changes of t by norms of about 20:
with factor 1, the last network was 3 points worse than without a search of t (40 % wrong labels, one seed)."""
CLASS_FACTOR = 2.0
"""Change of b for one unit of theta (ours): with 1, the search went 0.4 of the way to balanced softmax (classes 1:50,
one seed)."""
LOWEST = {"t": -1.0, "tau": 0.0}
"""Lower end of each curve's domain; the upper end is 1 for both."""
SMALLEST_NORM = 1e-12
"""Smallest norm that a logit is divided by to get a cosine."""


class Member(nn.Module, ABC):
    """A member of the family, as a criterion: (features, classifier weight without bias, labels) -> mean loss.

    With label smoothing e the loss is (1 - e) times the mean of -log tau(p) plus e times the mean over classes of
    -log softmax of the modified logits: `F.cross_entropy(label_smoothing=e)` where t and tau are the identity.
    """

    class_logits: Tensor | None
    label_logit: Tensor

    def __init__(
        self, *, scale: float, label_smoothing: float, label_logit: float, class_logits: list[float] | None
    ) -> None:
        """Add `label_logit` to the label's logit (a margin if below 0) and `class_logits` (k) to all logits."""
        super().__init__()
        if not np.isfinite([label_logit, *(class_logits or [])]).all():
            raise ValueError("label_logit and class_logits must be finite numbers")
        self.settings: dict[str, Any] = {"scale": scale, "label_smoothing": label_smoothing}
        if label_logit or class_logits is not None:
            self.settings |= {"label_logit": label_logit, "class_logits": class_logits}
        self.scale = scale
        self.label_smoothing = label_smoothing
        self.register_buffer("label_logit", torch.tensor(label_logit).float())
        self.register_buffer("class_logits", None if class_logits is None else torch.tensor(class_logits).float())

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
        """Return the logits plus class logits, with the label's n c replaced by n t(c) = n c + n (t(c) - c)."""
        logits = features @ weight.T
        norm = torch.linalg.vector_norm(features, dim=1) * torch.linalg.vector_norm(weight, dim=1)[labels]  # b
        cosine = logits.gather(1, labels[:, None]).squeeze(1) / norm.clamp_min(SMALLEST_NORM)  # b
        added = norm * self.excess_at(cosine) + self.label_logit
        if self.class_logits is not None:
            logits = logits + self.class_logits
        return logits.scatter_add(1, labels[:, None], added[:, None])

    @abstractmethod
    def excess_at(self, cosine: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return t(c) - c."""

    @abstractmethod
    def log_tau(self, log_p: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return log tau(p) from log p."""

    @abstractmethod
    def curve(self, part: str, at: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
        """Return the values of the curve `t` or `tau` at these points."""

    @abstractmethod
    def shape(self) -> dict[str, Any]:
        """Return the arguments that reconstruct t and tau."""

    def at_scale(self, scale: float) -> "Member":
        """Return the same loss with another constant factor, on the same device."""
        device = next(self.buffers()).device
        return type(self)(**{**self.to_json(), "scale": scale}).to(device)

    def beginning(self) -> "SearchedLoss":
        """Return the loss that a training from scratch begins under: cross-entropy with this loss's class margins.

        If tau(0) > 0, an image's gradient is cross-entropy's times tau' p / tau: small at p = 1 / k and smaller below,
        so that a class which falls behind stays behind. Networks that began under such a loss never learned one class
        or several (see README.md).
        """
        loss = SearchedLoss(
            t=[-1.0, 1.0],
            tau=[0.0, 1.0],
            label_smoothing=self.label_smoothing,
            class_logits=self.settings.get("class_logits"),
        )
        return loss.to(next(self.buffers()).device)

    def to_json(self) -> dict[str, Any]:
        """Return the arguments that reconstruct this loss."""
        return self.shape() | self.settings


class SearchedLoss(Member):
    """A member whose t and tau are piecewise linear, continuous and rising, given by their values at knots."""

    excess: Tensor
    excess_slope: Tensor
    tau: Tensor
    tau_slope: Tensor

    def __init__(
        self,
        *,
        t: list[float],
        tau: list[float],
        scale: float = 1.0,
        label_smoothing: float = 0.0,
        label_logit: float = 0.0,
        class_logits: list[float] | None = None,
    ) -> None:
        """Set the values of t and tau at equally spaced knots over [-1, 1] and [0, 1]; `scale` multiplies the loss.

        Raises ValueError if the values give no member of the family.
        """
        super().__init__(
            scale=scale, label_smoothing=label_smoothing, label_logit=label_logit, class_logits=class_logits
        )
        require_member(t, tau)
        self.knots = {"t": list(t), "tau": list(tau)}
        places = np.linspace(-1, 1, len(t))
        excess = np.asarray(t) - places  # what t adds to the cosine: exactly 0 for cross-entropy
        self.register_buffer("excess", torch.tensor(excess, dtype=torch.float32))
        self.register_buffer("excess_slope", torch.tensor(np.diff(excess) / np.diff(places), dtype=torch.float32))
        self.register_buffer("tau", torch.tensor(tau, dtype=torch.float32))
        self.register_buffer("tau_slope", torch.tensor(np.diff(tau) * (len(tau) - 1), dtype=torch.float32))

    def excess_at(self, cosine: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        left = interval((cosine + 1) * 0.5, len(self.excess_slope))
        start = left * (2 / len(self.excess_slope)) - 1
        return self.excess[left] + self.excess_slope[left] * (cosine - start)

    def log_tau(self, log_p: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return log tau(p), exact even if p underflows: before the second knot, tau is tau(0) + slope p."""
        width = 1 / len(self.tau_slope)
        p = log_p.exp()
        inside = p.clamp_min(width)  # the branch that is not chosen must stay finite, or its gradient is nan
        left = (inside.detach() / width).floor().long().clamp(0, len(self.tau_slope) - 1)
        beyond = (self.tau[left] + self.tau_slope[left] * (inside - left * width)).log()
        first = torch.logaddexp(self.tau_slope[0].log() + log_p, self.tau[0].log().expand_as(log_p))
        return torch.where(p < width, first, beyond)

    def curve(self, part: str, at: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
        knots = self.knots[part]
        values: Float64[np.ndarray, " g"] = np.interp(at, np.linspace(LOWEST[part], 1, len(knots)), knots)
        return values

    def shape(self) -> dict[str, Any]:
        return dict(self.knots)


def interval(share: Float[Tensor, " b"], count: int) -> Int64[Tensor, " b"]:
    """Return which of `count` equal intervals of [0, 1] holds the share; the outer ones extend to infinity."""
    return (share.detach() * count).floor().long().clamp(0, count - 1)


def require_member(t: list[float], tau: list[float]) -> None:
    if min(len(t), len(tau)) < 2:
        raise ValueError(f"t has {len(t)} and tau {len(tau)} values; a line needs at least 2 knots")
    if not np.isfinite([*t, *tau]).all():
        raise ValueError("t and tau must be finite numbers at every knot")
    if np.any(np.diff(t) < 0) or np.any(np.diff(tau) < 0):
        raise ValueError("t and tau must not fall from one knot to the next")
    if tau[0] < 0 or tau[1] <= 0 or tau[-1] != 1:
        raise ValueError("tau must start at 0 or above, be positive from its second knot on and end at exactly 1")


def read_loss(path: str | Path) -> SearchedLoss:
    """Read the loss in a `loss.json` as a criterion: (features, classifier weight, labels) -> mean loss."""
    return SearchedLoss(**json.loads(Path(path).read_text(encoding="utf-8")))


# --- theta: unconstrained numbers <-> values at the knots


def decode(
    theta: Float64[np.ndarray, " p"], label_smoothing: float = 0.0, counts: Int64[np.ndarray, " k"] | None = None
) -> SearchedLoss:
    """Return the loss of the unconstrained theta = (margin of t, increments of t, start of tau, increments of tau).

    theta = 0 is cross-entropy. At cosine 0, t is `MARGIN` times its theta (AM-softmax: below 0). Then t is moved down
    until it is nowhere above the cosine: where n t(c) > n c, longer features and weights would lower the loss without
    anything being learned. A search that looks one trunk ahead does not see that; a whole training on CIFAR-10 ended at
    half of cross-entropy's accuracy.

    tau starts at r / (1 + r), r = max(0, theta). Above 0 the loss of a hopeless image is bounded and its gradient
    vanishes, which is what resists wrong labels. tau's increments are divided by their sum, so that it ends at 1. With
    `counts`, the training images n_c of each class, theta ends with a and b: a is added to the label's logit, b log n_c
    to every class's (b = 1: balanced softmax, Ren et al., NeurIPS 2020).
    """
    curves, (label_logit, class_logits) = theta, (0.0, None)
    if counts is not None:
        curves, (label_logit, class_logits) = theta[:-2], class_margins(theta[-2:], counts)
    assert len(curves) % 2 == 0, "as many numbers for tau as for t"
    of_t, of_tau = np.split(curves, 2)
    places = np.linspace(-1, 1, len(of_t))
    excess = cumulate(0.0, np.diff(places) * (increments(T_FACTOR * of_t[1:]) - 1))
    excess += MARGIN * of_t[0] - np.interp(0.0, places, excess)
    t = places + excess - max(0.0, float(excess.max()))
    odds = max(0.0, float(of_tau[0]))
    start = odds / (1 + odds)
    rising = increments(of_tau[1:])
    tau = cumulate(start, (1 - start) * rising / rising.sum())
    tau[-1] = 1.0
    return SearchedLoss(
        t=t.tolist(),
        tau=np.minimum(tau, 1).tolist(),
        label_smoothing=label_smoothing,
        label_logit=label_logit,
        class_logits=class_logits,
    )


def class_margins(theta: Float64[np.ndarray, " p"], counts: Int64[np.ndarray, " k"]) -> tuple[float, list[float]]:
    """Return a, and b log n_c minus its mean, which the softmax cancels; a class without images counts as one."""
    a, b = theta[0].item(), CLASS_FACTOR * theta[1].item()
    logs = np.log(np.maximum(counts, 1))
    return a, (b * (logs - logs.mean())).tolist()


def increments(theta: Float64[np.ndarray, " i"]) -> Float64[np.ndarray, " i"]:
    """Return softplus(theta + log(e - 1)), which is positive, and 1 at theta = 0."""
    steps: Float64[np.ndarray, " i"] = np.maximum(np.logaddexp(0.0, theta + math.log(math.e - 1)), SMALLEST_INCREMENT)
    return steps


def cumulate(start: float, steps: Float64[np.ndarray, " i"]) -> Float64[np.ndarray, " i+1"]:
    return np.concatenate([[start], start + np.cumsum(steps)])


# --- known losses


@dataclass(frozen=True, kw_only=True)
class Known:
    """A published loss as its curves t and tau."""

    t: Curve
    tau: Curve


def identity(x: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
    return x


def angular(margin: int) -> Curve:
    """Return t of A-softmax (SphereFace) and L-softmax: (-1)^k cos(m theta) - 2 k on [k pi / m, (k + 1) pi / m]."""

    def t(x: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
        angle = np.arccos(np.clip(x, -1, 1))
        k = np.minimum(np.floor(margin * angle / np.pi), margin - 1)
        values: Float64[np.ndarray, " g"] = (-1) ** k * np.cos(margin * angle) - 2 * k
        return values

    return t


def arc(margin: float) -> Curve:
    """Return t of ArcFace, cos(theta + m). It falls for theta from pi - m to pi, where no member of the family does."""
    return lambda x: np.cos(np.arccos(np.clip(x, -1, 1)) + margin)


def focal(alpha: float) -> Curve:
    """Return tau of the focal loss -(1 - p)^alpha log p, which is p^((1 - p)^alpha)."""
    return lambda p: np.where(p > 0, np.maximum(p, 1e-300) ** ((1 - p) ** alpha), 0.0)


KNOWN: dict[str, Known] = {
    "softmax": Known(t=identity, tau=identity),
    "a_softmax": Known(t=angular(4), tau=identity),
    "l_softmax": Known(t=angular(2), tau=identity),
    "am_softmax": Known(t=lambda x: x - 0.35, tau=identity),
    "arcface": Known(t=arc(0.5), tau=identity),
    "focal": Known(t=identity, tau=focal(2.0)),
}
"""Published losses with their usual constants: m = 4 (SphereFace), 2 (L-softmax), .35 (AM-softmax), .5 (ArcFace),
alpha = 2 (focal)."""


def closest(known: Known, knots: int) -> SearchedLoss:
    """Return the member of the family with the smallest maximal difference from the known loss."""
    t = fit_knots(known.t, -1.0, 1.0, [(None, None)] * knots)
    tau = fit_knots(known.tau, 0.0, 1.0, [(0.0, 1.0)] * (knots - 1) + [(1.0, 1.0)])
    return SearchedLoss(t=t.tolist(), tau=tau.tolist())


def representation_error(known: Known, knots: int) -> tuple[float, float]:
    """Return the maximal differences of t on [-1, 1] and of tau on [0, 1] between the known loss and `closest`."""
    member = closest(known, knots).knots
    return sup_error(known.t, member["t"], -1.0, 1.0), sup_error(known.tau, member["tau"], 0.0, 1.0)


def sup_error(curve: Curve, values: list[float], low: float, high: float) -> float:
    grid = np.linspace(low, high, GRID)
    return float(np.abs(np.interp(grid, np.linspace(low, high, len(values)), values) - curve(grid)).max())


GRID = 2001
"""Number of points at which curves are compared."""


def fit_knots(
    curve: Curve, low: float, high: float, bounds: Sequence[tuple[float | None, float | None]]
) -> Float64[np.ndarray, " q"]:
    """Return rising values at the knots, within their bounds, that minimise the maximal difference from the curve.

    It is a linear programme in the values and that difference.
    """
    grid, knots = np.linspace(low, high, GRID), len(bounds)
    hats = np.stack([np.interp(grid, np.linspace(low, high, knots), row) for row in np.eye(knots)], axis=1)  # g q
    falls = -np.diff(np.eye(knots), axis=0)  # q-1 q: how far the values fall from one knot to the next
    rows = np.block([[hats, -np.ones((GRID, 1))], [-hats, -np.ones((GRID, 1))], [falls, np.zeros((knots - 1, 1))]])
    limits = np.concatenate([curve(grid), -curve(grid), np.zeros(knots - 1)])
    best = linprog(np.eye(knots + 1)[-1], A_ub=rows, b_ub=limits, bounds=[*bounds, (0.0, None)])
    values: Float64[np.ndarray, " q"] = np.maximum.accumulate(best.x[:-1])  # the solver may fall by its rounding
    return values
