"""Settings of the final measurement on the test split (section `evaluate`)."""

from dataclasses import dataclass

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Settings of what is measured once, on the test split, of the very file that ships."""

    repeats: int = 200
    """Number of timed runs of the ONNX file."""
    parity_images: int = 256
    """Number of test images on which torch and ONNX Runtime must give the same logits."""

    def __post_init__(self) -> None:
        require(self.repeats >= 1, f"evaluate.repeats is {self.repeats}; use at least 1")
        require(self.parity_images >= 1, f"evaluate.parity_images is {self.parity_images}; use at least 1")
