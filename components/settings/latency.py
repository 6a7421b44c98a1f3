"""Settings of the target that latency is measured on (section `latency`)."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Settings of the target that latencies are measured on, and of the measurement."""

    provider: Literal["cpu", "cuda"] = "cpu"
    """Execution provider of ONNX Runtime; a missing one is an error, never silently replaced by the CPU."""
    threads: int = 1
    """Number of ONNX Runtime's intra-op threads. With 1 the time is the thread's CPU time, which preemption does not
    change; another process on the core's other hyper-thread does, so that only the quietest quarter of the runs
    counts."""
    batch: int = 1
    """Number of images in an inference."""
    optimisation: Literal["all", "extended", "basic", "none"] = "all"
    """Graph optimisation level of ONNX Runtime; `all` is its default, and what a service runs with."""
    repeats: int = 60
    """Number of timed runs of each block; the median of the quietest quarter counts."""
    calibration: int = 10
    """Number of whole networks that are measured to fit network latency as a line over sums of block latencies."""

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "repeats"):
            value = getattr(self, name)
            require(value >= 1, f"latency.{name} is {value}; use at least 1")
        require(self.calibration >= 3, f"latency.calibration is {self.calibration}; a line needs at least 3 networks")
