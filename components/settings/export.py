"""The file that ships."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Export:
    """The precision of the ONNX file that ships; block latencies are measured in the same one."""

    quantize: Literal["none", "int8"] = "none"
    """`int8`: static quantisation of the trained network, activations uint8, weights int8 (Jacob et al., CVPR 2018)."""
    calibration_images: int = 512
    """Train images that the ranges of the activations are taken from."""
    reduce_range: bool | None = None
    """Weights of 7 bits, so that sums cannot saturate on x86 processors without VNNI; null: where this machine's is one
    (then the machine is part of the result: set it, where several must give the same bytes)."""

    def __post_init__(self) -> None:
        count = self.calibration_images
        require(count >= 1, f"export.calibration_images is {count}; use at least 1")
