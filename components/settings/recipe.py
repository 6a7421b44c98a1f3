"""Settings of how every network is trained (section `train.recipe`)."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of training that every search and the final training share, so that what is searched is what ships."""

    batch_size: int = 64
    learning_rate: float = 0.1
    """Peak of the learning rate: linear warm-up, then cosine to 0."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises. In these, cross-entropy with the found loss's class margins
    replaces the found loss, or some classes may never be learned (components/loss/README.md)."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 5.0e-4
    """Weight decay of convolution and linear weights; other parameters have none."""
    muon: float = 0.0
    """Peak of the learning rate of convolutions, which then train by Muon (components/training/muon.py), without weight
    decay; 0: they train by SGD, as all other weights do."""
    progressive: bool = False
    """Whether the final training begins on images of five eighths of the side and ends on the whole
    (components/training/progressive.py)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What layers compute in while they train (torch.autocast): bfloat16 is faster on processors that have it. Weights,
    losses, optimisers and every evaluation are float32."""
    label_smoothing: float = 0.0
    flip: bool = False
    """Whether images are randomly flipped left to right, before the searched policy."""
    crop: int = 0
    """Number of pixels by which an image is padded (reflected) for a random crop, before the searched policy."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, f"train.recipe.batch_size is {self.batch_size}; batch norm needs at least 2")
        require(self.learning_rate > 0, f"train.recipe.learning_rate is {self.learning_rate}; use a positive number")
        require(0 <= self.warmup < 1, f"train.recipe.warmup is {self.warmup}; use a share from 0 to below 1")
        require(0 <= self.momentum < 1, f"train.recipe.momentum is {self.momentum}; use 0 to below 1")
        require(self.muon >= 0, f"train.recipe.muon is {self.muon}; use a positive number, or 0 for SGD")
        require(self.weight_decay >= 0, f"train.recipe.weight_decay is {self.weight_decay}; use 0 or more")
        require(
            0 <= self.label_smoothing < 1,
            f"train.recipe.label_smoothing is {self.label_smoothing}; use 0 to below 1",
        )
        require(self.crop >= 0, f"train.recipe.crop is {self.crop}; use 0 or more pixels")
