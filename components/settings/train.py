"""The final training."""

from dataclasses import dataclass

from components.settings.recipe import Recipe
from components.settings.require import require
from components.settings.variants import VARIANTS


@dataclass(frozen=True, kw_only=True)
class Train:
    """The final training of the searched network and of the baseline, on train and val together."""

    variants: tuple[str, ...] = VARIANTS
    """What is trained: `searched`, `baseline` and, of further budgets in `architecture.latency_ms`, those named here
    (`budget_2` is the second's) and in `evaluate.budgets`."""
    epochs: int
    ema: float = 0.0
    """Decay a step of the exponential moving average of the weights that ships, less while few steps are averaged (step
    t, from 0: at most (1 + t) / (10 + t)), so that the random first weights are gone soon; 0: the last weights ship."""
    recipe: Recipe

    def __post_init__(self) -> None:
        for name in VARIANTS:
            require(name in self.variants, f"train.variants lacks {name}, which `evaluate` compares; add it")
        require(len(set(self.variants)) == len(self.variants), "train.variants names a variant twice; name each once")
        require(self.epochs >= 1, f"train.epochs is {self.epochs}; use at least 1")
        require(0 <= self.ema < 1, f"train.ema is {self.ema}; use 0 (off) to below 1")
