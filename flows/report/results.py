"""Read what `evaluate` measured for the model that ships and, if it was trained, for the baseline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.settings.params import Params
from components.settings.variants import BASELINE, SEARCHED, VARIANTS
from flows.checkout import paths
from flows.checkout.files import read_json

Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Figures by variant, the model that ships first."""

    metrics: Mapping[str, Figures]
    latency: Mapping[str, Figures]

    @property
    def images(self) -> int:
        """Number of test images."""
        return int(self.metrics[SEARCHED]["images"])

    @property
    def baseline(self) -> float | None:
        """The baseline's accuracy, or None if it was not trained."""
        own = self.metrics.get(BASELINE)
        return None if own is None else float(own["accuracy"])


def compared(params: Params) -> list[str]:
    """Return the variants that are compared: the model that ships, and the baseline if it is trained."""
    return [name for name in VARIANTS if name in params.train.variants]


def read_results(params: Params) -> Results:
    names = compared(params)
    return Results(
        metrics={name: read_json(paths.of_variant(paths.METRICS, name)) for name in names},
        latency={name: read_json(paths.of_variant(paths.MEASURED, name)) for name in names},
    )
