"""Settings of the architecture search (section `architecture`)."""

from dataclasses import dataclass
from typing import Literal

from components.settings.require import require
from components.settings.space import SearchSpace

STEERING = ("enas", "proxyless")
"""Strategies that learn path weights, by which they choose what the shared weights are trained on."""


@dataclass(frozen=True, kw_only=True)
class Architecture(SearchSpace):
    """Settings of PC-NAS (Li et al., CVPR 2020) and its rivals; see components/architecture/README.md."""

    margin: float = 0.05
    """Share of the latency budget that the search keeps free for the error of the latency prediction (ours)."""
    max_parameters: int | None = None
    """Limit on the number of trained parameters; null: none. This limit and the next three are counted as
    components/architecture/costs.py says, and hold together with the latency budget (budget.latency_ms)."""
    max_flops: int | None = None
    """Limit on FLOPs per image, two for each multiply-add; null: none."""
    max_memory_bytes: int | None = None
    """Limit on the peak memory of float32 activations for one image; null: none."""
    max_file_bytes: int | None = None
    """Limit on the size of the float32 ONNX file; null: none. The search estimates the size within 3 % and keeps as
    much free; an int8 file is far smaller. The gate checks the file that ships."""
    strategy: Literal["pc_nas", "random", "evolution", "aging_evolution", "ridge", "enas", "proxyless", "largest"] = (
        "pc_nas"
    )
    """The search strategy. The rivals of `pc_nas` use as many evaluations; `random` is the control. `largest` searches
    nothing: it takes the network with the most FLOPs within the limits."""
    potential: Literal["mean", "additive"] = "additive"
    """`pc_nas`: a partial model's potential is the mean score of its completions (the paper), or the best score that a
    ridge model of all scores expects (ours). `ridge` chooses among its finalists by their own scores or by the
    model."""
    population: int = 20
    """`evolution`: networks in a generation (SPOS: 50); `aging_evolution`: networks alive (Real et al.: 100)."""
    mutation: float = 0.1
    """`evolution`: probability that a mutant's layer is drawn anew (SPOS: 0.1)."""
    controller_lr: float = 0.3
    """`enas`, `proxyless`: Adam's step for the path weights (ENAS: 3.5e-4, ProxylessNAS: 1e-3, over many thousands)."""
    latency_weight: float = 1.0
    """`proxyless`: weight of the expected latency, as a share of the limit, in the loss (ours)."""
    pool: int = 5
    """P, the number of partial models kept in a stage (paper: 5)."""
    completions: int = 4
    """S, the number of completions scored for each candidate."""
    metric: Literal["accuracy", "likelihood"] = "likelihood"
    """A network's score on val: its accuracy (the paper), or the geometric mean of the right classes' probabilities
    (ours), which is less noisy because it tells nearly right from hopeless predictions."""
    warmup_epochs: float
    """Epochs that the whole supernet trains with uniform paths before stage 1."""
    stage_epochs: float
    """Epochs that the shrinking supernet trains in each stage."""
    score_images: int = 500
    """Number of val images that a completion is scored on; the last stage uses all of val."""
    recalibration_images: int = 512
    """Number of train images that re-estimate a sub-network's batch-norm statistics (use at least 512; ours)."""
    max_images: int | None = None
    """Number of images that the supernet trains on at most; null: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_parameters", "max_flops", "max_memory_bytes", "max_file_bytes"):
            value = getattr(self, name)
            require(
                value is None or value >= 1, f"architecture.{name} is {value}; use at least 1, or null for no limit"
            )
        require(0 <= self.margin < 1, f"architecture.margin is {self.margin}; use 0 to below 1")
        for name in ("pool", "completions", "population", "score_images", "recalibration_images"):
            value = getattr(self, name)
            require(value >= 1, f"architecture.{name} is {value}; use at least 1")
        require(0 <= self.mutation <= 1, f"architecture.mutation is {self.mutation}; use a probability from 0 to 1")
        for name in ("controller_lr", "latency_weight", "warmup_epochs", "stage_epochs"):
            value = getattr(self, name)
            require(value >= 0, f"architecture.{name} is {value}; use 0 or more")
        require(
            self.max_images is None or self.max_images >= 1,
            f"architecture.max_images is {self.max_images}; use at least 1, or null for all",
        )
