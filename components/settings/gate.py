"""What a new model must pass."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a model must show on the test split and on this machine before it may ship."""

    test: Literal["mcnemar", "bootstrap"] = "mcnemar"
    """`mcnemar`: refused if it is worse beyond chance (exact, one-sided). `bootstrap`: refused unless the images show
    that it loses no more than the margin (Bayesian bootstrap, one more image counted as lost): the burden of proof is
    the new model's, and few test images prove little: with a margin of 0.01 and alpha 0.05, it takes about 300 without
    a loss."""
    alpha: float = 0.05
    """Chance of error of the paired test; 0 turns it off, and the margin alone decides."""
    margin: float = 0.01
    """How far below the champion's accuracy a model may be, and ship."""
    class_alpha: float = 0.05
    """Chance of error of the paired tests of the single classes, all of them together (exact, one-sided, Holm); 0 turns
    them off. A class of few images is refused only for what its few images can show."""
    p99: float = 2.0
    """The 99th percentile of its latency, over all runs, may be so many times the budget; the budget itself is for the
    median of the quietest quarter of the runs, which others on the machine disturb least."""
    parity: float = 1.0e-3
    """Largest difference between torch's and ONNX Runtime's logits."""

    def __post_init__(self) -> None:
        require(0 <= self.alpha < 1, f"gate.alpha is {self.alpha}; use 0 (off) to below 1")
        require(0 <= self.margin < 1, f"gate.margin is {self.margin}; use 0 to below 1")
        require(0 <= self.class_alpha < 1, f"gate.class_alpha is {self.class_alpha}; use 0 (off) to below 1")
        require(self.p99 >= 1, f"gate.p99 is {self.p99}; use at least 1")
        require(self.parity > 0, f"gate.parity is {self.parity}; use a positive number")
