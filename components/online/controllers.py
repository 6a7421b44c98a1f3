"""Controllers turn the rewards of a trunk into the next distribution.

    p_theta  distribution of the hyper-parameter       R_n  reward of copy n, nan if it lost the trunk
    theta    its parameters (p)                        A_n  advantage: (R_n - baseline) / std(R)
    s_n      what copy n drew from p_theta             x_n  features of s_n (p): what a linear model sees of it
    beta     effect of each feature on the reward (p)

Four rules share one interface. `Reinforce` is the paper's (Lin et al., ICCV 2019, eq. 5 and 6). `Bandit` fits a linear
model to all rewards so far (ours). `Matching` reads the gradients behind the reward `alignment` (ours). `Null` never
moves the distribution and is the control of every claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64

from components.settings.online import Online
from components.training.adam import EPSILON, Adam, advantages, informative, standardised

S = TypeVar("S")
NOTHING = 1e-4
"""Length of an added gradient, as a share of the target gradient's, up to which the sample counts as adding nothing
(ours): rounding adds 1e-7, the mildest operation 1e-3."""
RIDGE = 0.3
"""Ridge penalty of `Matching`, in units of a direction's squared length, 1 (ours): 0.1 is as good, but without a
penalty a few samples take all the weight."""
SWEEPS = 1000
"""Largest number of passes over the coordinates in `nonnegative`."""


@dataclass(frozen=True, kw_only=True)
class GradientGram:
    """Gradient Gram matrix of a trunk under the reward `alignment`, with every gradient taken at one model state.

    added_n   training gradient under sample n minus the plain training gradient
    target    gradient that would make up what training lacks on val, taken on each half of val (`TargetGradient`)
    """

    products: Float64[np.ndarray, "m m"]
    """Inner products of added_1..added_n and, in the last two rows, the target gradients of the halves of val
    (m = n + 2); nan in the row and column of a sample that was lost."""
    train_loss: float
    """Mean loss on training images that no sample was tried on; nan for a world that does not measure losses."""
    val_loss: float
    """Mean loss on val; nan likewise."""

    @property
    def with_mean_target(self) -> Float64[np.ndarray, "k k"]:
        """The Gram matrix with the mean of both target gradients as its last row and column (k = n + 1)."""
        rows = np.vstack([self.products[:-2], self.products[-2:].mean(axis=0)])
        return np.column_stack([rows[:, :-2], rows[:, -2:].mean(axis=1)])

    @property
    def target_agreement(self) -> float:
        """Inner product of the halves' target gradients: the target's squared length without either half's noise."""
        return float(self.products[-2, -1])


@runtime_checkable
class Distribution(Protocol[S]):
    """The distribution p_theta, an immutable value: `at` returns a new one with another theta."""

    @property
    def theta(self) -> Float64[np.ndarray, " p"]: ...

    def sample(self, count: int, rng: np.random.Generator) -> tuple[S, ...]:
        """Draw one sample for each of `count` copies."""
        ...

    def probes(self, count: int, rng: np.random.Generator) -> tuple[S, ...]:
        """Return the samples that the reward `alignment` tries: a fixed set that covers theta, or `count` draws."""
        ...

    def score_gradient(self, sample: S) -> Float64[np.ndarray, " p"]:
        """Return d log p_theta(sample) / d theta, divided by the number of draws that the sample holds."""
        ...

    def features(self, sample: S) -> Float64[np.ndarray, " p"]:
        """Return the regressors of a linear reward model: feature i grows with what a larger theta_i makes likelier."""
        ...

    def prior(self) -> Float64[np.ndarray, "p p"]:
        """Return the prior covariance of the features' effects, with diagonal 1: it says which effects are alike."""
        ...

    def at(self, theta: Float64[np.ndarray, " p"]) -> "Distribution[S]":
        """Return the same distribution with another theta."""
        ...

    @property
    def slots(self) -> int:
        """How many of the `probes` can be applied to one image together."""
        ...

    def toward(self, shares: Float64[np.ndarray, " n"], rate: float) -> "Distribution[S]":
        """Move by a fraction `rate` towards the distribution under which probe n is applied in `shares[n]` of training.

        What the shares leave of 1 is plain training, without what is searched.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Null:
    """Never moves the distribution: all that remains of the search is to select or average the copies."""

    rate: float = 0.0

    def update(
        self,
        distribution: Distribution[S],
        samples: Sequence[S],
        rewards: Float64[np.ndarray, " n"],
        gradient_gram: GradientGram | None = None,
    ) -> tuple["Null", Distribution[S]]:
        return self, distribution


@dataclass(frozen=True, kw_only=True)
class Reinforce(Adam):
    """REINFORCE with Adam: theta <- Adam(theta, 1/N sum_n A_n d log p_theta(s_n) / d theta)."""

    def update(
        self,
        distribution: Distribution[S],
        samples: Sequence[S],
        rewards: Float64[np.ndarray, " n"],
        gradient_gram: GradientGram | None = None,
    ) -> tuple["Reinforce", Distribution[S]]:
        drawn, got = survivors(samples, rewards)
        if not informative(got):
            return self, distribution
        gradient = advantages(got) @ np.stack([distribution.score_gradient(sample) for sample in drawn]) / len(drawn)
        learned, moved = self.step(distribution.theta, gradient)
        return learned, distribution.at(moved)


@dataclass(frozen=True, kw_only=True)
class Bandit:
    """Linear bandit: theta = theta_0 + rate * z, with z each effect's posterior mean over its posterior deviation.

    The standardised rewards of all trunks so far are regressed on x_n - mean(x): R = beta x + noise, with
    beta ~ N(0, prior) and noise variance 1. Unlike REINFORCE, it credits a reward to each feature given what is known
    of the others. Unlike Adam, whose steps are as large on noise as on a signal, it leaves z at most a standard normal
    when rewards are noise, however many there are. This holds for noise that is independent from sample to sample:
    under `alignment` and `linear_probe` all rewards share the noise of val, and z can be larger.
    """

    rate: float
    start: Float64[np.ndarray, " p"] | None = None
    precision: Float64[np.ndarray, "p p"] | float = 0.0
    """Sum of x x' over the samples so far, in units of the noise variance."""
    response: Float64[np.ndarray, " p"] | float = 0.0
    """Sum of x R over the samples so far."""

    def update(
        self,
        distribution: Distribution[S],
        samples: Sequence[S],
        rewards: Float64[np.ndarray, " n"],
        gradient_gram: GradientGram | None = None,
    ) -> tuple["Bandit", Distribution[S]]:
        drawn, got = survivors(samples, rewards)
        if not informative(got):
            return self, distribution
        x = np.stack([distribution.features(sample) for sample in drawn])
        x = x - x.mean(axis=0)
        start = distribution.theta if self.start is None else self.start
        learned = replace(
            self,
            start=start,
            precision=self.precision + x.T @ x,
            response=self.response + standardised(got) @ x,
        )
        return learned, distribution.at(start + self.rate * learned.certainty(distribution.prior()))

    def certainty(self, prior: Float64[np.ndarray, "p p"]) -> Float64[np.ndarray, " p"]:
        """Return z (p): each effect's posterior mean over its posterior standard deviation."""
        # covariance = (prior^-1 + precision)^-1, without inverting the prior
        covariance = np.linalg.solve(np.eye(len(prior)) + prior @ self.precision, prior)
        z: Float64[np.ndarray, " p"] = covariance @ self.response / np.sqrt(np.diag(covariance))
        return z


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Gradient matching: find the mixture of samples whose added gradients together fit the target gradient.

        u_n  direction of sample n's added gradient     v         direction of the target gradient (rewards.py)
        w_n  its weight, at least 0                     p         the mixture: w scaled to sum 1
        all  slots of the distribution                  target_h  target gradient on half h of val; target: their mean

        w = argmin |sum_n w_n u_n - v|^2 + RIDGE |w|^2
        trust = <target_1, target_2> / |target|^2, at least 0
        length = trust |target| / |sum_n p_n added_n|
        room = 1 - loss on training images / loss on val, at least 0
        fit = cos(sum_n p_n u_n, v)
        strength = fit ((1 - room) length + room all)

    The distribution moves a fraction `rate` of the way to this mixture. Rewards alone, the cosines <u_n, v>, would give
    full weight to each of many similar samples. Here similar samples share one weight, and what they do not explain of
    the target goes to others, as in GRAD-MATCH for training images (Killamsetty et al., ICML 2021). Samples are mixed
    by direction, not by length: added gradients differ a thousandfold in length, and the mildest operations have the
    shortest.

    The augmentation strength says how much of training the mixture should make up (ours). Where a network fails on
    training images as much as on val (room 0), the mixture gets the length of the target gradient. That length is
    shrunk, as by Wiener's filter, to what both halves of val agree on, because the rest is noise. Where it has learned
    the training images and has nothing left to lose there (room 1), the mixture fills all slots. Both are scaled by
    `fit`, which makes `fit` * length the least-squares factor.

    Inner products and losses are means over the trunks; a sample that adds nothing, or was lost, does not count in that
    trunk. This controller needs the reward `alignment` and the same samples in every trunk.
    """

    rate: float
    start: Float64[np.ndarray, " p"] | None = None
    counts: Float64[np.ndarray, "m m"] | float = 0.0
    """Number of trunks in which both the row and the column counted; rows: the samples, then the target (m = n + 1)."""
    directions: Float64[np.ndarray, "m m"] | float = 0.0
    """Sum over trunks of the Gram matrices of u_1..u_n, v."""
    lengths: Float64[np.ndarray, "m m"] | float = 0.0
    """Sum over trunks of the Gram matrices of added_1..added_n, target."""
    target_agreement: float = 0.0
    """Sum over trunks of <target_1, target_2>."""
    train_loss: float = 0.0
    """Sum over trunks of `GradientGram.train_loss`."""
    val_loss: float = 0.0
    """Sum over trunks of `GradientGram.val_loss`."""

    def update(
        self,
        distribution: Distribution[S],
        samples: Sequence[S],
        rewards: Float64[np.ndarray, " n"],
        gradient_gram: GradientGram | None = None,
    ) -> tuple["Matching", Distribution[S]]:
        assert gradient_gram is not None, "params let `matching` through with `alignment` only"
        products = gradient_gram.with_mean_target
        sizes = np.sqrt(np.diag(products))
        adds = np.append(np.isfinite(rewards) & (sizes[:-1] > NOTHING * sizes[-1]), True)
        if not adds[:-1].any() or sizes[-1] == 0:
            return self, distribution
        sizes = np.where(adds, sizes, 1.0)
        units = products / np.outer(sizes, sizes)
        units[-1, :-1] = units[:-1, -1] = rewards
        counted = np.outer(adds, adds)
        start = distribution.theta if self.start is None else self.start
        learned = replace(
            self,
            start=start,
            counts=self.counts + counted,
            directions=self.directions + np.where(counted, units, 0.0),
            lengths=self.lengths + np.where(counted, products, 0.0),
            target_agreement=self.target_agreement + gradient_gram.target_agreement,
            train_loss=self.train_loss + gradient_gram.train_loss,
            val_loss=self.val_loss + gradient_gram.val_loss,
        )
        at_start = distribution.at(start)
        return learned, at_start.toward(learned.shares(at_start.slots), self.rate)

    def shares(self, slots: int) -> Float64[np.ndarray, " n"]:
        """Return the share of training that each sample should make up; all 0 if none has a positive cosine."""
        counts = np.maximum(np.asarray(self.counts), 1.0)
        directions, lengths = np.asarray(self.directions) / counts, np.asarray(self.lengths) / counts
        along = directions[-1, :-1]
        w = nonnegative(directions[:-1, :-1], along)
        if not w.any():
            return w
        mixture: Float64[np.ndarray, " n"] = w / w.sum()
        agreement = max(0.0, self.target_agreement) / counts[-1, -1]  # the target counts in every trunk
        length = agreement / np.sqrt(lengths[-1, -1] * (mixture @ lengths[:-1, :-1] @ mixture))
        fit = along @ mixture / np.sqrt(mixture @ directions[:-1, :-1] @ mixture)
        room = max(0.0, 1 - self.train_loss / max(self.val_loss, EPSILON))
        mixture *= fit * ((1 - room) * min(slots, length) + room * slots)
        return mixture


def nonnegative(overlaps: Float64[np.ndarray, "n n"], targets: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return argmin over w >= 0 of w' overlaps w - 2 targets w + RIDGE |w|^2, by coordinate descent.

    scipy's nnls needs a factor of the overlaps. But the last bits of a factorisation depend on the number of threads,
    and overlaps averaged over trunks that lost different samples need not have one.
    """
    w = np.zeros(len(targets))
    for _ in range(SWEEPS):
        before = w.copy()
        for n in range(len(w)):
            rest = targets[n] - overlaps[n] @ w + overlaps[n, n] * w[n]
            w[n] = max(0.0, rest / (overlaps[n, n] + RIDGE))
        if np.abs(w - before).max() < 1e-12:
            break
    return w


Controller = Null | Reinforce | Bandit | Matching
CONTROLLERS: dict[str, type[Null] | type[Reinforce] | type[Bandit] | type[Matching]] = {
    "null": Null,
    "reinforce": Reinforce,
    "bandit": Bandit,
    "matching": Matching,
}


def first_controller(settings: Online) -> Controller:
    """Return the controller that the settings name, in its state before any reward."""
    return CONTROLLERS[settings.controller](rate=settings.controller_lr)


def survivors(samples: Sequence[S], rewards: Float64[np.ndarray, " n"]) -> tuple[list[S], Float64[np.ndarray, " m"]]:
    """Return the samples and rewards of the copies that were not lost in the trunk."""
    alive = np.isfinite(rewards)
    return [sample for sample, lives in zip(samples, alive, strict=True) if lives], rewards[alive]
