"""The augmentation search OHL-Auto-Aug (Lin et al., ICCV 2019) on the engine in components.online."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from components.augmentation.distribution import FactoredPairs, first_distribution
from components.augmentation.policy import Elements, Pairs, augment_pairs
from components.data.store import Split
from components.online.engine import Trunk
from components.online.world import Treatment, World
from components.settings.augmentation import Augmentation
from components.settings.online import Online
from components.settings.recipe import Recipe
from components.training.crop_flip import compose
from components.training.devices import CPU, Devices, Make
from components.training.loop import State
from components.training.parallel import Parallel, sequential


@dataclass(frozen=True, kw_only=True)
class PairsWorld(World):
    """The world of the augmentation search: each image gets crop and flip, then one of the copy's pairs."""

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
    distribution: FactoredPairs | None = None,
    devices: Devices = CPU,
    parallel: Parallel = sequential,
    after: Trunk[Pairs] | None = None,
) -> Iterator[Trunk[Pairs]]:
    """Train the network on `train` while learning which pairs of elements help on `val`; yield one record a trunk.

    The search starts from `distribution`, by default the settings' one. With `after`, a recorded trunk of the same
    search, it goes on from there.
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
