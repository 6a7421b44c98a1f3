"""What later stages take from the plan: how long networks train there, and for how long they may."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.architecture.training_cost import TrainingCosts


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Planned seconds of each part, by the wall clock."""

    architecture: float
    augmentation: float
    loss: float
    race: float
    final: float

    @property
    def total(self) -> float:
        return float(sum(asdict(self).values()))

    @property
    def searches(self) -> float:
        return self.architecture + self.augmentation + self.loss


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What later stages take from the plan: how long networks train, and for how long they may."""

    costs: TrainingCosts
    seconds: Seconds

    def epochs(self, architecture: tuple[str, ...], seconds: float, images: int) -> int:
        """Return the number of epochs over so many images that a final training gets in the seconds, at least 1."""
        return max(1, round(seconds / (self.costs.final_seconds(architecture) * images)))

    def to_json(self) -> dict[str, Any]:
        return {"costs": self.costs.to_json(), "seconds": asdict(self.seconds)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Speeds":
        return cls(costs=TrainingCosts.from_json(value["costs"]), seconds=Seconds(**value["seconds"]))
