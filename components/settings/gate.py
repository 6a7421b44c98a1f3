"""Settings of the gate, which a new model must pass (section `gate`)."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Settings of the checks, on the test split and on this machine, that a model must pass before it ships."""

    test: Literal["mcnemar", "bootstrap"] = "mcnemar"
    """`mcnemar`: a model is refused if it is significantly worse (exact, one-sided). `bootstrap`: it is refused unless
    the test images show that it loses no more than the margin (Bayesian bootstrap with one more image counted as lost).
    The burden of proof is then the new model's: with a margin of 0.01 and alpha 0.05 it takes about 300 test images
    without a loss."""
    alpha: float = 0.05
    """Error probability of the paired test; 0 turns it off, and the margin alone decides."""
    margin: float = 0.01
    """How far below the champion's accuracy a model may be and still ship."""
    class_alpha: float = 0.05
    """Error probability of the paired tests of single classes, all of them together (exact, one-sided, Holm); 0 turns
    them off. A class with few images is refused only for what those can show."""
    p99: float = 2.0
    """How many times the budget the 99th percentile of the latency, over all runs, may be. The budget itself is
    compared with the median of the quietest quarter of the runs, which other processes disturb least."""
    parity: float = 1.0e-3
    """Largest allowed difference between torch's and ONNX Runtime's logits."""

    def __post_init__(self) -> None:
        require(0 <= self.alpha < 1, f"gate.alpha is {self.alpha}; use 0 (off) to below 1")
        require(0 <= self.margin < 1, f"gate.margin is {self.margin}; use 0 to below 1")
        require(0 <= self.class_alpha < 1, f"gate.class_alpha is {self.class_alpha}; use 0 (off) to below 1")
        require(self.p99 >= 1, f"gate.p99 is {self.p99}; use at least 1")
        require(self.parity > 0, f"gate.parity is {self.parity}; use a positive number")
