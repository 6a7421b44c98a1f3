"""CPU seconds that networks of a space take to train, added up from measured parts like their latency.

    seconds an image = overhead + sum over stem, layers and head

components/planning/training_speed.py measures them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.architecture.parts import parts
from components.architecture.space import Architecture


@dataclass(frozen=True, kw_only=True)
class TrainingCosts:
    """Seconds of training, recorded, so that nothing later reads a clock."""

    layers: tuple[str, ...]
    """Shape of each layer of the measured space."""
    parts: Mapping[str, float]
    """Seconds an image of each part, on one thread."""
    overhead: float
    """Seconds an image beyond the parts, on one thread."""
    small: float
    """Cost of an image in the first quarter of progressive resizing, as a share of a whole image's."""
    mean: float
    """Mean cost of an image over progressive resizing, as such a share."""
    speedup: float
    """How many times as fast as one thread the final training's threads are, by the wall clock."""

    def seconds(self, architecture: Architecture) -> float:
        """Return the CPU seconds that a training image of full size takes on one thread."""
        return self.overhead + sum(self.parts[name] for name in parts(self.layers, architecture))

    def final_seconds(self, architecture: Architecture) -> float:
        """Return the seconds, by the wall clock, that an image takes in the final training, on average over it."""
        return self.seconds(architecture) * self.mean / self.speedup

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrainingCosts":
        return cls(**(dict(value) | {"layers": tuple(value["layers"])}))
