"""Settings of the budgets: how fast the network must be, and how long it may take to find (section `budget`)."""

from dataclasses import dataclass

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Budget:
    """All that a person must say, beside where the images are."""

    latency_ms: float | tuple[float, ...]
    """Milliseconds that an inference of the shipped ONNX file may take on the target. A list gives a network for each
    budget, from one supernet; the line goes on with the first."""
    minutes: float | None = None
    """Minutes of this machine for searching and training together; null: a sensible multiple of one training."""

    @property
    def first(self) -> float:
        """The latency budget that the line goes on with, in milliseconds."""
        return self.all[0]

    @property
    def all(self) -> tuple[float, ...]:
        """All latency budgets in milliseconds; the line goes on with the first."""
        return self.latency_ms if isinstance(self.latency_ms, tuple) else (self.latency_ms,)

    def __post_init__(self) -> None:
        require(self.all != (), "budget.latency_ms is empty; give at least one budget")
        require(len(set(self.all)) == len(self.all), "budget.latency_ms names a budget twice")
        for budget in self.all:
            require(budget > 0, f"budget.latency_ms is {budget}; use a positive number")
        require(
            self.minutes is None or self.minutes > 0,
            f"budget.minutes is {self.minutes}; use a positive number, or null for a multiple of one training",
        )
