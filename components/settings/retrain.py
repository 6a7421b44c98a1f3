"""When the deployments retrain, and from what."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """When a deployment trains anew by itself, and what it searches then."""

    search: Literal["fresh", "reuse"] = "fresh"
    """Of deployments. `fresh`: search anew; `reuse`: keep the architecture, augmentation and loss of the version in
    service, and only train."""
    min_new_images: int = 200
    """New images that are reason enough (ours)."""
    shift_alpha: float = 0.01
    """Level of the test whether fewer new images are of another distribution, each time there are others (ours)."""

    def __post_init__(self) -> None:
        require(self.min_new_images >= 1, f"retrain.min_new_images is {self.min_new_images}; use at least 1")
        require(0 <= self.shift_alpha < 1, f"retrain.shift_alpha is {self.shift_alpha}; use 0 (never) to below 1")
