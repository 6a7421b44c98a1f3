"""Is a model worse than another one? Both judged on the same images, so that only those count on which they differ.

McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 1947, in its exact
form; Rubin, The Bayesian bootstrap, Annals of Statistics 1981; Clopper and Pearson, The use of confidence or fiducial
limits illustrated in the case of the binomial, Biometrika 1934.

    n     images
    lost  images that the reference alone gets right
    won   images that the model alone gets right
    loss  (lost - won) / n, by how much less often the model is right
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy.special import bdtrc, ndtr

RESAMPLES = 10_000
"""Bootstrap samples (ours): the bound's own noise is then a hundredth of its distance from the loss."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two models on the same images, in counts."""

    images: int
    lost: int
    won: int

    def __str__(self) -> str:
        return f"{self.lost} lost and {self.won} won of {self.images} images"


def pair(right: Bool[np.ndarray, " n"], reference: Bool[np.ndarray, " n"]) -> Paired:
    """From which images the model and the reference get right."""
    return Paired(images=len(right), lost=int((reference & ~right).sum()), won=int((right & ~reference).sum()))


def mcnemar(paired: Paired) -> float:
    """Chance of losing at least so many of the images on which only one is right, were both equally good."""
    return float(bdtrc(paired.lost - 1, paired.lost + paired.won, 0.5))


def loss_bound(paired: Paired, alpha: float, rng: np.random.Generator) -> float:
    """What the loss does not exceed, with a chance of error of about `alpha` at most: a percentile over reweighted
    images.

    The Bayesian bootstrap with one more lost image than there was: images that are drawn with replacement hold no loss
    where none was seen, which would prove that five images are enough. With it the bound of a model that wins nothing
    is Clopper's and Pearson's exact one, 1 - alpha^(1/n) if it loses nothing either. The weights of the images that are
    lost, won and neither are gamma variables, which is all that the loss depends on.
    """
    counts = [paired.lost + 1, paired.won, paired.images - paired.lost - paired.won]
    weights = rng.standard_gamma(counts, size=(RESAMPLES, 3))
    losses = (weights[:, 0] - weights[:, 1]) / weights.sum(axis=1)
    return float(np.quantile(losses, 1 - alpha))


@dataclass(frozen=True, kw_only=True)
class ClassLoss:
    """Two models on the images of one class."""

    name: str
    paired: Paired
    p: float
    """As `mcnemar`, adjusted for the number of classes: below alpha for a class that is not worse with a chance of
    alpha at most, whatever the number of classes and of their images."""


def class_losses(
    right: Bool[np.ndarray, " n"], reference: Bool[np.ndarray, " n"], actual: np.ndarray
) -> list[ClassLoss]:
    """Every class, the clearest loss first. `actual`: each image's class name.

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
    """Chance of naming at least so many images right, were the answers independent of the images: those of a model
    that learnt nothing, however it guesses, or that always says the same class.

    The number of agreements of two sequences of which one is shuffled: its mean and variance are exact, its tail is
    taken for a normal one, with half an image for continuity. Fleiss, Cohen and Everitt, Large sample standard errors
    of kappa and weighted kappa, Psychological Bulletin 1969. `said`, `actual`: class names.
    """
    n, right = len(actual), int((said == actual).sum())
    names = np.unique(np.concatenate([said, actual]))
    a, b = (np.array([(names_of == name).sum() for name in names], dtype=float) for names_of in (said, actual))
    mean = float(a @ b) / n
    if n == 1:
        return 1.0
    pairs = float(a @ b) ** 2 - float((a * b) @ (a * b))  # of agreements on two different classes
    same = float((a * (a - 1)) @ (b * (b - 1)))  # on the same class
    variance = mean + (pairs + same) / (n * (n - 1)) - mean**2
    if variance <= 1e-9:
        return 1.0
    return float(ndtr((mean - right + 0.5) / math.sqrt(variance)))
