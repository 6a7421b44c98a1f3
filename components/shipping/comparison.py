"""Paired tests whether a model is worse than a reference on the same images; only images where they differ count.

McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 1947, in its exact
form; Rubin, The Bayesian bootstrap, Annals of Statistics 1981; Clopper and Pearson, The use of confidence or fiducial
limits illustrated in the case of the binomial, Biometrika 1934.

    n     images
    lost  images that the reference alone gets right
    won   images that the model alone gets right
    loss  (lost - won) / n, the difference in accuracy
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy.special import bdtrc, ndtr

RESAMPLES = 10_000
"""Number of bootstrap samples (ours): the bound's own noise is then a hundredth of its distance from the loss."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Counts of the images that one of two models alone gets right."""

    images: int
    lost: int
    won: int

    def __str__(self) -> str:
        return f"{self.lost} lost and {self.won} won of {self.images} images"


def pair(right: Bool[np.ndarray, " n"], reference: Bool[np.ndarray, " n"]) -> Paired:
    """Count, from the images that the model and the reference get right."""
    return Paired(images=len(right), lost=int((reference & ~right).sum()), won=int((right & ~reference).sum()))


def mcnemar(paired: Paired) -> float:
    """Return the p-value: the chance of losing at least so many images if both models were equally good."""
    return float(bdtrc(paired.lost - 1, paired.lost + paired.won, 0.5))


def loss_bound(paired: Paired, alpha: float, rng: np.random.Generator) -> float:
    """Return an upper bound on the loss with error probability of about `alpha`, by the Bayesian bootstrap.

    It counts one more lost image than there was: otherwise a model that loses none of five images would be proved to
    lose nothing. With it the bound of a model that wins no image is Clopper's and Pearson's exact one, 1 - alpha^(1/n)
    if it loses none either. The total weights of lost, won and other images are gamma variables, and the loss depends
    on nothing else.
    """
    counts = [paired.lost + 1, paired.won, paired.images - paired.lost - paired.won]
    weights = rng.standard_gamma(counts, size=(RESAMPLES, 3))
    losses = (weights[:, 0] - weights[:, 1]) / weights.sum(axis=1)
    return float(np.quantile(losses, 1 - alpha))


@dataclass(frozen=True, kw_only=True)
class ClassLoss:
    """Comparison of two models on the images of one class."""

    name: str
    paired: Paired
    p: float
    """The p-value of `mcnemar`, adjusted for the number of classes: the chance that it is below alpha for any class
    that is not worse is at most alpha."""


def class_losses(
    right: Bool[np.ndarray, " n"], reference: Bool[np.ndarray, " n"], actual: np.ndarray
) -> list[ClassLoss]:
    """Compare the models on every class, the smallest p-value first. `actual`: each image's class name.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
    """
    names = np.unique(actual)
    pairs = {str(name): pair(right[actual == name], reference[actual == name]) for name in names}
    ordered = sorted(pairs, key=lambda name: mcnemar(pairs[name]))
    losses, p = [], 0.0
    for rank, name in enumerate(ordered):
        p = max(p, min(1.0, (len(ordered) - rank) * mcnemar(pairs[name])))
        losses.append(ClassLoss(name=name, paired=pairs[name], p=p))
    return losses


def chance(said: np.ndarray, actual: np.ndarray) -> float:
    """Return the chance of so many right predictions if these were independent of the images.

    This is the case for a model that learnt nothing, however it guesses, even if it always predicts the same class. The
    number of right predictions is that of agreements with a shuffled sequence: its mean and variance are exact, and its
    tail is taken as normal, with a continuity correction of half an image. Fleiss, Cohen and Everitt, Large sample
    standard errors of kappa and weighted kappa, Psychological Bulletin 1969. `said`, `actual`: predicted and true class
    names.
    """
    n, right = len(actual), int((said == actual).sum())
    names = np.unique(np.concatenate([said, actual]))
    a, b = (np.array([(names_of == name).sum() for name in names], dtype=float) for names_of in (said, actual))
    mean = float(a @ b) / n
    if n == 1:
        return 1.0
    pairs = float(a @ b) ** 2 - float((a * b) @ (a * b))  # pairs of agreements on two different classes
    same = float((a * (a - 1)) @ (b * (b - 1)))  # pairs of agreements on the same class
    variance = mean + (pairs + same) / (n * (n - 1)) - mean**2
    if variance <= 1e-9:
        return 1.0
    return float(ndtr((mean - right + 0.5) / math.sqrt(variance)))
