"""Where the copies of a search run."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Where the copies of a search run; never changes a result."""

    backend: Literal["sequential", "loky", "ray", "dask"] = "loky"
    """`loky`: processes here; `ray`, `dask` (extras): a cluster that sees the data at the same path, or one started
    here."""
    workers: int = 2
    """Copies at a time; 1 runs them in the stage's own process, whatever the backend."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, f"parallel.workers is {self.workers}; use at least 1")
