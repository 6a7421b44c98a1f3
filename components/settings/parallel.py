"""Settings of the workers that the copies of a search run on (section `parallel`)."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Settings of the workers that the copies of a search run on; they never change a result."""

    backend: Literal["sequential", "loky", "ray", "dask"] = "loky"
    """`loky`: processes on this machine. `ray`, `dask` (extras): a cluster that sees the data at the same path, or one
    that is started on this machine."""
    workers: int = 2
    """Number of copies that run at a time; with 1 they run in the stage's own process, whatever the backend."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, f"parallel.workers is {self.workers}; use at least 1")
