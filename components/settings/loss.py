"""Settings of the loss search (section `loss`)."""

from dataclasses import dataclass

from components.settings.online import Online
from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Settings of the loss family and of the Gaussian over it (Li et al., ICCV 2019); see components/loss/README.md."""

    knots: int = 10
    """Number of values of t, and of tau, that are searched. 10 knots approximate A-softmax's t (m = 4) within 0.19 of
    its range of 8; 7 or more ArcFace's (m = .5) within 0.061, since it falls where no member of the family does."""
    sigma: float = 0.2
    """Standard deviation of the Gaussian over unconstrained knots (paper: 0.2)."""
    class_margins: bool = False
    """Whether to search a margin a + b log n_c of class c too, with n_c its number of training images; t and tau are
    shared by all classes (ours)."""
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
