"""OHL-Auto-Aug (Lin et al., ICCV 2019): the augmentation search, as a world for the engine in components.online."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from components import params
from components.augmentation.policy import (
    Elements,
    FactoredPairs,
    LiteralPairs,
    Pairs,
    augment_pairs,
    first_distribution,
)
from components.controllers import Controller, begun_with, evidence_of, first_controller
from components.data.store import Split
from components.online import Trunk
from components.parallel import Parallel, sequential
from components.training import State, compose
from components.world import CPU, Devices, Make, Treatment, World


@dataclass(frozen=True, kw_only=True)
class PairsWorld(World):
    """Crop and flip, then one of the copy's pairs for each image."""

    elements: Elements
    settings: params.Augmentation

    @property
    def online(self) -> params.Online:
        return self.settings.online

    def treatment(self, sample: Pairs, state: State, trunk: int, copy: int) -> Treatment:
        plain = self.plain()
        return replace(plain, augment=compose(plain.augment, augment_pairs(self.elements, sample)))


def search_augmentation(
    make: Make,
    train: Split,
    val: Split,
    *,
    settings: params.Augmentation,
    recipe: params.Recipe,
    seed: int,
    distribution: FactoredPairs | LiteralPairs | None = None,
    controller: Controller | None = None,
    devices: Devices = CPU,
    parallel: Parallel = sequential,
    after: Trunk[Pairs] | None = None,
) -> Iterator[Trunk[Pairs]]:
    """Train the network on `train` while learning which pairs of elements serve it on `val`; one record a trunk.

    `distribution` and `controller` are what the search starts with; without them, what the settings say. `after` a
    recorded trunk of the same search, it goes on from there.
    """
    distribution = distribution or first_distribution(settings)
    world = PairsWorld(
        make=make,
        train=train,
        val=val,
        elements=distribution.elements,
        settings=settings,
        recipe=recipe,
        seed=seed,
        devices=devices,
    )
    yield from world.search_from(distribution, parallel, controller, after)


# --- a start for a later search


def to_warm_start(distribution: FactoredPairs | LiteralPairs, controller: Controller) -> dict[str, Any]:
    """JSON values that a later search can start with, exactly."""
    return space_of_pairs(distribution) | {
        "theta": distribution.theta.tolist(),
        "evidence": evidence_of(controller),
    }


def from_warm_start(
    record: Mapping[str, Any], settings: params.Augmentation
) -> tuple[FactoredPairs | LiteralPairs, Controller]:
    """The distribution of such a record, as the settings sample it, and the settings' controller with its evidence.

    Raises OtherSpace for one over other elements, or whose logits mean something else; ValueError, KeyError.
    """
    first, theta = first_distribution(settings), np.array(record["theta"], dtype=np.float64)
    changed = [name for name, value in space_of_pairs(first).items() if record[name] != value]
    if changed:
        raise params.OtherSpace(f"it has other {' and '.join(changed)} than the settings")
    params.require(theta.shape == first.theta.shape, f"theta holds {theta.size} numbers, not {first.theta.size}")
    controller = begun_with(first_controller(settings.online), record["evidence"], theta.size)
    return first.at(theta), controller


def space_of_pairs(distribution: FactoredPairs | LiteralPairs) -> dict[str, Any]:
    """What theta is about."""
    return {
        "elements": [str(element) for element in distribution.elements],
        "pairs": "factored" if isinstance(distribution, FactoredPairs) else "literal",
        "normalisation": distribution.normalisation,
    }
