"""Settings of the file that ships (section `export`)."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Export:
    """Settings of the precision of the ONNX file that ships; block latencies are measured in the same precision."""

    quantize: Literal["none", "int8"] = "none"
    """`int8`: static quantisation of the trained network, with uint8 activations and int8 weights (Jacob et al., CVPR
    2018)."""
    calibration_images: int = 512
    """Number of train images that give the activations' ranges."""
    reduce_range: bool | None = None
    """Whether weights have 7 bits, so that sums cannot saturate on x86 processors without VNNI. null: if this machine
    has such a processor. The machine is then part of the result: set it where several must give the same bytes."""

    def __post_init__(self) -> None:
        count = self.calibration_images
        require(count >= 1, f"export.calibration_images is {count}; use at least 1")
