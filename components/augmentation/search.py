"""OHL-Auto-Aug (Lin et al., ICCV 2019): the augmentation search, as a world for the engine in components.online."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from components.augmentation.policy import (
    Elements,
    FactoredPairs,
    LiteralPairs,
    Pairs,
    augment_pairs,
    first_distribution,
)
from components.data.store import Split
from components.online.controllers import Controller
from components.online.engine import Trunk
from components.online.world import CPU, Devices, Make, Treatment, World
from components.settings.augmentation import Augmentation
from components.settings.online import Online
from components.settings.recipe import Recipe
from components.training.crop_flip import compose
from components.training.loop import State
from components.training.parallel import Parallel, sequential
from components.warm_start import begun_from, record_of


@dataclass(frozen=True, kw_only=True)
class PairsWorld(World):
    """Crop and flip, then one of the copy's pairs for each image."""

    elements: Elements
    settings: Augmentation

    @property
    def online(self) -> Online:
        return self.settings.online

    def treatment(self, sample: Pairs, state: State, trunk: int, copy: int) -> Treatment:
        plain = self.plain()
        return replace(plain, augment=compose(plain.augment, augment_pairs(self.elements, sample)))


def search_augmentation(
    make: Make,
    train: Split,
    val: Split,
    *,
    settings: Augmentation,
    recipe: Recipe,
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
    return record_of(space_of_pairs(distribution), distribution.theta, controller)


def from_warm_start(
    record: Mapping[str, Any], settings: Augmentation
) -> tuple[FactoredPairs | LiteralPairs, Controller]:
    """The distribution of such a record, as the settings sample it, and the settings' controller with its evidence.

    Raises OtherSpace for one over other elements, or whose logits mean something else; ValueError, KeyError.
    """
    first = first_distribution(settings)
    theta, controller = begun_from(record, space_of_pairs(first), first.theta.size, settings.online)
    return first.at(theta), controller


def space_of_pairs(distribution: FactoredPairs | LiteralPairs) -> dict[str, Any]:
    """What theta is about."""
    return {
        "elements": [str(element) for element in distribution.elements],
        "pairs": "factored" if isinstance(distribution, FactoredPairs) else "literal",
        "normalisation": distribution.normalisation,
    }
