"""The settings that the plan chooses where params.yaml says null, and what holds until there is a plan."""

from collections.abc import Mapping
from typing import Any

PLANNED: Mapping[str, Mapping[str, Any]] = {
    "data": {"data.size": 32},
    "space": {"architecture.stem": 16, "architecture.stem_stride": 1, "architecture.stages": [[32, 2, 2]]},
    "architecture": {
        "architecture.strategy": "largest",
        "architecture.warmup_epochs": 0.0,
        "architecture.stage_epochs": 0.0,
    },
    "augmentation": {
        "augmentation.online.trunks": 0,
        "augmentation.online.images": 1024,
        "augmentation.online.head_start": 0,
    },
    "loss": {"loss.online.trunks": 0, "loss.online.images": 1024, "loss.online.head_start": 0},
    "race": {"race.images": 1024},
    "recipe": {"train.recipe.dtype": "float32"},
    "export": {"export.quantize": "none"},
}
"""Part of the settings, named as stages read it -> setting -> the value that is assumed before the plan is made: no
stage but `plan` runs without one, and checks of the file need some value."""
