"""Settings of when deployments retrain, and what they search (section `retrain`)."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """Settings of when a deployment retrains by itself, and what it searches then."""

    search: Literal["fresh", "reuse"] = "fresh"
    """`fresh`: deployments search anew. `reuse`: they keep the architecture, augmentation and loss of the version in
    service, and only train."""
    min_new_images: int = 200
    """Number of new images that start a retraining (ours)."""
    shift_alpha: float = 0.01
    """Significance level of the test whether fewer new images have another distribution, made each time there are new
    ones (ours)."""

    def __post_init__(self) -> None:
        require(self.min_new_images >= 1, f"retrain.min_new_images is {self.min_new_images}; use at least 1")
        require(0 <= self.shift_alpha < 1, f"retrain.shift_alpha is {self.shift_alpha}; use 0 (never) to below 1")
