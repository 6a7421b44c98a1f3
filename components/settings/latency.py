"""What the latency budget is measured on."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The target that latencies are measured on, and how."""

    provider: Literal["cpu", "cuda"] = "cpu"
    """ONNX Runtime execution provider; one that is missing is an error, never a silent CPU number."""
    threads: int = 1
    """ONNX Runtime intra-op threads; with 1 the time is the thread's CPU time, immune to preemption (not to a neighbour
    on the core's other hyper-thread: the quietest quarter of the runs counts)."""
    batch: int = 1
    """Images an inference."""
    optimisation: Literal["all", "extended", "basic", "none"] = "all"
    """ONNX Runtime's graph optimisation level; `all` is its own default, and what a service runs with."""
    repeats: int = 60
    """Timed runs of each block; the median of the quietest quarter counts."""
    calibration: int = 10
    """Whole networks measured to fit the line from sums of block latencies to network latency."""

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "repeats"):
            value = getattr(self, name)
            require(value >= 1, f"latency.{name} is {value}; use at least 1")
        require(self.calibration >= 3, f"latency.calibration is {self.calibration}; a line needs at least 3 networks")
