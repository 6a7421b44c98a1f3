"""The loss search."""

from dataclasses import dataclass

from components.settings.online import Online
from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss family and its Gaussian (Li et al., ICCV 2019); see components/loss/README.md."""

    knots: int = 10
    """Values of t and of tau that are searched: with 10, A-softmax's t (m = 4) is met within 0.19 of its range of 8,
    ArcFace's (m = .5) with 7 or more within 0.061, for it falls where no member does."""
    sigma: float = 0.2
    """Standard deviation of the Gaussian over unconstrained knots (paper: 0.2)."""
    class_margins: bool = False
    """Search a margin a + b log n_c of class c too, from its n_c training images; t and tau are shared by all classes
    (ours)."""
    online: Online

    def __post_init__(self) -> None:
        require(self.knots >= 2, f"loss.knots is {self.knots}; use at least 2")
        require(self.sigma > 0, f"loss.sigma is {self.sigma}; use a positive number")
        require(
            self.online.controller != "matching",
            "loss.online.controller is matching, which needs the same samples in every trunk, but losses are drawn "
            "anew; use bandit",
        )
        require(
            self.online.copies % 2 == 0,
            f"loss.online.copies is {self.online.copies}; samples come in antithetic pairs, use an even number",
        )
