"""Is a model worse than another one? Both judged on the same images, so that only those count on which they differ.

McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 1947, in its exact
form; Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 1979.

    n     images
    lost  images that the reference alone gets right
    won   images that the model alone gets right
    loss  (lost - won) / n, by how much less often the model is right
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy.special import bdtrc

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
    """What the loss does not exceed, with a chance of error of `alpha`: a percentile over resampled images.

    A resampled set of images is a draw of the three counts, which is all that the loss depends on.
    """
    counts = np.array([paired.lost, paired.won, paired.images - paired.lost - paired.won])
    drawn = rng.multinomial(paired.images, counts / paired.images, size=RESAMPLES)
    return float(np.quantile((drawn[:, 0] - drawn[:, 1]) / paired.images, 1 - alpha))


def largest_drop(
    right: Bool[np.ndarray, " n"], reference: Bool[np.ndarray, " n"], actual: np.ndarray
) -> tuple[str, float]:
    """The class on which the model falls furthest below the reference, and by what share of its images."""
    names = np.unique(actual)
    drops = [float(reference[actual == name].mean() - right[actual == name].mean()) for name in names]
    worst = int(np.argmax(drops))
    return str(names[worst]), drops[worst]
