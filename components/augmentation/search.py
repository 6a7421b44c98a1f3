"""OHL-Auto-Aug (Lin et al., ICCV 2019): the augmentation search, as a world for the engine in components.online."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from components import params
from components.augmentation.policy import (
    Elements,
    FactoredPairs,
    LiteralPairs,
    Pairs,
    augment_pairs,
    first_distribution,
)
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
    devices: Devices = CPU,
    parallel: Parallel = sequential,
    after: Trunk[Pairs] | None = None,
) -> Iterator[Trunk[Pairs]]:
    """Train the network on `train` while learning which pairs of elements serve it on `val`; one record a trunk.

    `distribution` is where the search starts; without it, where the settings say. `after` a recorded trunk of the
    same search, it goes on from there.
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
    yield from world.search_from(distribution, parallel, after)
