"""Settings of the final training (section `train`)."""

from dataclasses import dataclass

from components.settings.recipe import Recipe
from components.settings.require import require
from components.settings.variants import SEARCHED, VARIANTS


@dataclass(frozen=True, kw_only=True)
class Train:
    """Settings of the final training of the searched network and the baseline, on train and val together."""

    variants: tuple[str, ...] = VARIANTS
    """What is trained and measured: `searched`, which ships; `baseline`, if it is named; and the networks of further
    budgets in `budget.latency_ms` that are named here (`budget_2` is the second's)."""
    epochs: int | None = None
    """Epochs of the final training of `searched`; null: those that the plan's speeds and `budget.minutes` leave.
    `baseline` gets as many more as make it equal in compute to searches, race and final training together."""
    ema: float = 0.0
    """Decay per step of the exponential moving average of the weights, which ships; 0: the last weights ship. In step
    t, from 0, it is at most (1 + t) / (10 + t), so that the random first weights soon vanish from the average."""
    recipe: Recipe

    def __post_init__(self) -> None:
        require(SEARCHED in self.variants, f"train.variants lacks {SEARCHED}, which is the model that ships; add it")
        require(len(set(self.variants)) == len(self.variants), "train.variants names a variant twice; name each once")
        require(self.epochs is None or self.epochs >= 1, f"train.epochs is {self.epochs}; use at least 1")
        require(0 <= self.ema < 1, f"train.ema is {self.ema}; use 0 (off) to below 1")
