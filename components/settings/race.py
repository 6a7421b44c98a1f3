"""Settings of the race that decides what ships (section `race`)."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Race:
    """Settings of successive halving on short trainings (Jamieson and Talwalkar, AISTATS 2016)."""

    images: int
    """Number of train images that a candidate sees in the first rung of a factor; in each further rung twice as many as
    in the one before. A network that costs more than the default network sees fewer."""
    rungs: int = 2
    """Number of rungs; after each the better half stays."""
    alpha: float = 0.05
    """Significance level at which something that was searched, or a fixed alternative, replaces what one would train
    without it (exact paired test on val); 0: it never does."""
    augmentations: tuple[Literal["trivial_augment", "rand_augment"], ...] = ("trivial_augment", "rand_augment")
    """Fixed policies that the searched one is compared with (Muller and Hutter, ICCV 2021; Cubuk et al., 2020)."""
    label_smoothing: tuple[float, ...] = (0.0, 0.2)
    """Label smoothings that the recipe's is compared with."""

    def __post_init__(self) -> None:
        require(self.images >= 1, f"race.images is {self.images}; use at least 1")
        require(self.rungs >= 1, f"race.rungs is {self.rungs}; use at least 1")
        require(0 <= self.alpha < 1, f"race.alpha is {self.alpha}; use 0 (off) to below 1")
        for value in self.label_smoothing:
            require(0 <= value < 1, f"race.label_smoothing names {value}; use 0 to below 1")
