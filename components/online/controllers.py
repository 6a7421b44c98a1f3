"""Controllers: from the rewards of a trunk to the next distribution.

    p_theta  distribution of the hyper-parameter       R_n  reward of copy n, nan if it lost the trunk
    theta    its parameters (p)                        A_n  advantage: (R_n - baseline) / std(R)
    s_n      what copy n drew from p_theta             x_n  features of s_n (p): what a linear model sees of it
    beta     effect of each feature on the reward (p)

One interface, four rules: `Reinforce` is the paper's (Lin et al., ICCV 2019, eq. 5 and 6), `Bandit` reads all rewards
so far with one linear model (ours), `Matching` the gradients behind the reward `alignment` (ours), `Null` never moves:
the control of every claim.
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
"""Length, as a share of what val asks for, up to which a sample adds nothing (ours): rounding is 1e-7, the mildest
operation 1e-3."""
RIDGE = 0.3
"""Penalty of `Matching` (ours), where a lone direction has 1: 0.1 is as good, without it few samples take all."""
SWEEPS = 1000
"""At most, of `nonnegative`."""


@dataclass(frozen=True, kw_only=True)
class GradientGram:
    """How samples answer what val asks of training, all at one state of the model (the reward `alignment`)."""

    products: Float64[np.ndarray, "m m"]
    """Inner products of what n samples add to the pull and, last two, of what either half of val asks for (m = n + 2);
    nan for a sample that was lost."""
    train_loss: float
    """On training images that no sample was tried on; nan where nobody asks."""
    val_loss: float

    @property
    def with_mean_target(self) -> Float64[np.ndarray, "k k"]:
        """The gram with the mean of what the halves ask for as its last row (k = n + 1)."""
        rows = np.vstack([self.products[:-2], self.products[-2:].mean(axis=0)])
        return np.column_stack([rows[:, :-2], rows[:, -2:].mean(axis=1)])

    @property
    def target_agreement(self) -> float:
        """Squared length of what val asks for, but for what only one half of it would say."""
        return float(self.products[-2, -1])


@runtime_checkable
class Distribution(Protocol[S]):
    """p_theta. An immutable value: `at` makes the moved one."""

    @property
    def theta(self) -> Float64[np.ndarray, " p"]: ...

    def sample(self, count: int, rng: np.random.Generator) -> tuple[S, ...]:
        """One sample for each of `count` copies."""
        ...

    def probes(self, count: int, rng: np.random.Generator) -> tuple[S, ...]:
        """What the reward `alignment` tries: samples that tell all of theta's coordinates apart, or `count` drawn."""
        ...

    def score_gradient(self, sample: S) -> Float64[np.ndarray, " p"]:
        """d log p_theta(sample) / d theta, divided by the number of draws that the sample holds."""
        ...

    def features(self, sample: S) -> Float64[np.ndarray, " p"]:
        """What a linear model of the reward sees of the sample: a larger feature is what a larger theta brings."""
        ...

    def prior(self) -> Float64[np.ndarray, "p p"]:
        """Covariance of the features' effects before any reward, diagonal 1: which effects are alike."""
        ...

    def at(self, theta: Float64[np.ndarray, " p"]) -> "Distribution[S]": ...

    @property
    def slots(self) -> int:
        """How many of the `probes` an image can be trained under at once."""
        ...

    def toward(self, shares: Float64[np.ndarray, " n"], rate: float) -> "Distribution[S]":
        """A share `rate` of the way to where each of the `probes` makes up its share of the training; what they leave
        of 1 is trained without what is searched."""
        ...


@dataclass(frozen=True, kw_only=True)
class Null:
    """Never moves: what is left of the search is selection or averaging."""

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
    """theta <- Adam(theta, 1/N sum_n A_n d log p_theta(s_n) / d theta)."""

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
    """theta = theta_0 + rate * z, where z is each effect's posterior mean over its posterior deviation.

    Bayesian linear regression of the standardised rewards of all trunks so far on x_n - mean(x): R = beta x + noise,
    beta ~ N(0, prior), noise variance 1. Unlike REINFORCE, one copy's reward is credited to each of its features with
    what is known of the others, and unlike Adam, whose steps are as large on noise as on a signal, rewards of noise
    leave z at most a standard normal, whatever their number. That is of noise which is independent from sample to
    sample: under `alignment` and `linear_probe` all rewards share the noise of val, and z can be larger.
    """

    rate: float
    start: Float64[np.ndarray, " p"] | None = None
    precision: Float64[np.ndarray, "p p"] | float = 0.0
    """Sum of x x', of the noise's unit."""
    response: Float64[np.ndarray, " p"] | float = 0.0
    """Sum of x R."""

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
        """z (p)."""
        # covariance = (prior^-1 + precision)^-1, without inverting the prior
        covariance = np.linalg.solve(np.eye(len(prior)) + prior @ self.precision, prior)
        z: Float64[np.ndarray, " p"] = covariance @ self.response / np.sqrt(np.diag(covariance))
        return z


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The mixture of samples whose gradients together answer what val asks for; a share `rate` of the way to it.

        u_n  direction of what sample n adds to the pull      v  direction of what val asks for (rewards.py)
        w_n  its weight, none below 0                         p  w, summing to 1: the mixture

        w = argmin |sum_n w_n u_n - v|^2 + RIDGE |w|^2
        trust = <asked_1, asked_2> / |asked|^2, at least 0
        length = trust |asked| / |sum_n p_n added_n|
        room = 1 - loss on training images / loss on val, at least 0
        fit = cos(sum_n p_n u_n, v)
        dose = fit ((1 - room) length + room all)

    Rewards alone, the cosines <u_n, v>, give one strong direction to many alike samples; here samples that answer the
    same share its weight, and what they leave open goes to others (GRAD-MATCH, Killamsetty et al., ICML 2021, does so
    with training images). Mixed by direction, not by length: added gradients differ a thousandfold in length, and the
    shortest are the mildest operations.

    The dose says how much of training the mixture should make up (ours). A network that fails on training images as
    much as on val gets the mixture at the length of what val asks for, shrunk as Wiener's filter does by what both
    halves of val ask for: the rest is their noise. One that has learned the training images, and has nothing more to
    lose there, gets the mixture on `all` that the distribution can give. Either as far as the mixture is what val asks
    for: `fit` length is its least-squares factor.

    Inner products and losses are means over the trunks; a sample that adds nothing, or was lost, does not count in that
    trunk.
    Needs the reward `alignment` and the same samples in every trunk.
    """

    rate: float
    start: Float64[np.ndarray, " p"] | None = None
    counts: Float64[np.ndarray, "m m"] | float = 0.0
    """Trunks in which both of two rows counted; rows: samples, what val asks for."""
    directions: Float64[np.ndarray, "m m"] | float = 0.0
    """Sum of the grams of u_1..u_n, v."""
    lengths: Float64[np.ndarray, "m m"] | float = 0.0
    """Sum of the grams of added_1..added_n, asked."""
    target_agreement: float = 0.0
    """Sum of <asked_1, asked_2>."""
    train_loss: float = 0.0
    val_loss: float = 0.0
    """Sums."""

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
        """Of each sample, the share of training that it should make up; 0 for all where none points along."""
        counts = np.maximum(np.asarray(self.counts), 1.0)
        directions, lengths = np.asarray(self.directions) / counts, np.asarray(self.lengths) / counts
        along = directions[-1, :-1]
        w = nonnegative(directions[:-1, :-1], along)
        if not w.any():
            return w
        mixture: Float64[np.ndarray, " n"] = w / w.sum()
        agreement = max(0.0, self.target_agreement) / counts[-1, -1]  # what val asks for counts in every trunk
        length = agreement / np.sqrt(lengths[-1, -1] * (mixture @ lengths[:-1, :-1] @ mixture))
        fit = along @ mixture / np.sqrt(mixture @ directions[:-1, :-1] @ mixture)
        room = max(0.0, 1 - self.train_loss / max(self.val_loss, EPSILON))
        mixture *= fit * ((1 - room) * min(slots, length) + room * slots)
        return mixture


def nonnegative(overlaps: Float64[np.ndarray, "n n"], targets: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """argmin over w >= 0 of w' overlaps w - 2 targets w + RIDGE |w|^2, one coordinate after the other until none moves.

    scipy's nnls finds the same from a factor of the overlaps: but a factorisation's last bits depend on the number of
    threads, and overlaps averaged over trunks that lost different samples need not have one.
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
    """Before any reward."""
    return CONTROLLERS[settings.controller](rate=settings.controller_lr)


def survivors(samples: Sequence[S], rewards: Float64[np.ndarray, " n"]) -> tuple[list[S], Float64[np.ndarray, " m"]]:
    """The samples and rewards of the copies that did not lose the trunk."""
    alive = np.isfinite(rewards)
    return [sample for sample, lives in zip(samples, alive, strict=True) if lives], rewards[alive]
