"""The whole of params.yaml as frozen dataclasses, one for each section.

The flows validate the file against these classes strictly (types, unknown keys). Each class checks its own values, so
that a component that is used without the flows refuses the same mistakes. "ours" marks a value that the papers do not
give.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from components.settings.architecture import STEERING, Architecture
from components.settings.augmentation import Augmentation
from components.settings.budget import Budget
from components.settings.data import Data
from components.settings.evaluate import Evaluate
from components.settings.export import Export
from components.settings.gate import Gate
from components.settings.latency import Latency
from components.settings.loss import Loss
from components.settings.parallel import Parallel
from components.settings.publish import Publish
from components.settings.race import Race
from components.settings.recipe import Recipe
from components.settings.require import require
from components.settings.retrain import Retrain
from components.settings.space import SearchSpace
from components.settings.train import Train
from components.settings.variants import VARIANTS

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of params.yaml."""

    seed: int
    threads: int
    """Number of torch threads outside the copies (a copy always uses 1). It changes the result, so it is fixed here."""
    device: Literal["cpu", "cuda"]
    """Where networks train: on the CPU, or on all CUDA devices here, which the copies of a search take in turns. It
    changes the result. `cuda` without such a device is an error; the file that ships is exported from the CPU."""
    parallel: Parallel
    budget: Budget
    data: Data
    latency: Latency
    architecture: Architecture
    augmentation: Augmentation
    loss: Loss
    race: Race
    train: Train
    export: Export
    evaluate: Evaluate
    gate: Gate
    publish: Publish
    retrain: Retrain = field(default_factory=Retrain)
    unstated: frozenset[str] = field(init=False, default=frozenset())
    """The settings that params.yaml leaves to the plan (components/settings/planned.py); whoever reads the file sets
    it."""

    @property
    def space(self) -> SearchSpace:
        """The space of networks alone, so that a stage that only builds one depends on no setting of the search."""
        return self.architecture

    @property
    def recipe(self) -> Recipe:
        """How networks are trained, in the searches too."""
        return self.train.recipe

    def part(self, kind: type[T]) -> T:
        """Return the settings that the dataclass `kind` has fields for: what one stage reads, and nothing else."""
        chosen: Any = kind
        return kind(**{one.name: getattr(self, one.name) for one in fields(chosen) if one.init})

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed is {self.seed}; use 0 or more")
        require(self.threads >= 1, f"threads is {self.threads}; use at least 1")
        recipe = self.train.recipe
        require(
            recipe.crop < self.data.size,
            f"train.recipe.crop is {recipe.crop} pixels of an image of {self.data.size} (data.size); use fewer",
        )
        for name in ("augmentation", "loss"):
            start = getattr(self, name).online.head_start
            require(
                start == 0 or start >= recipe.batch_size,
                f"{name}.online.head_start is {start} images, less than a batch ({recipe.batch_size}); use 0 or more",
            )
        budgets = len(self.budget.all)
        require(
            budgets == 1 or self.architecture.strategy not in STEERING,
            f"budget.latency_ms names {budgets} budgets, but {self.architecture.strategy} steers the training of "
            "shared weights towards one; name one, or use another strategy",
        )
        known = (*VARIANTS, *(f"budget_{number}" for number in range(2, budgets + 1)))
        for name in self.train.variants:
            require(
                name in known,
                f"train.variants names {name!r}; with {budgets} budgets in budget.latency_ms, known are "
                f"{', '.join(known)}",
            )
        require(
            self.export.quantize == "none" or self.latency.provider == "cpu",
            f"export.quantize is {self.export.quantize} and latency.provider {self.latency.provider}: ONNX Runtime "
            "computes this file in integers on the CPU only; set export.quantize none, or latency.provider cpu",
        )
