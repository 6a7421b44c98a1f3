"""What the test split is asked."""

from dataclasses import dataclass

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured once, on the test split, of the very file that ships."""

    repeats: int = 200
    """Timed runs of the ONNX file."""
    parity_images: int = 256
    """Test images on which torch and ONNX Runtime must give the same logits."""
    budgets: tuple[str, ...]
    """Those of `train.variants` that are of further budgets: each is measured beside its own limit. Without a default,
    since dvc.yaml makes a stage of each and knows none."""

    def __post_init__(self) -> None:
        require(self.repeats >= 1, f"evaluate.repeats is {self.repeats}; use at least 1")
        require(self.parity_images >= 1, f"evaluate.parity_images is {self.parity_images}; use at least 1")
