"""OHL-Auto-Aug (Lin et al., ICCV 2019): the augmentation search, as a world for the engine in components.online."""

from collections.abc import Iterator
from dataclasses import dataclass

from components import params
from components.augmentation.policy import (
    Elements,
    FactoredPairs,
    LiteralPairs,
    Pairs,
    augment_pairs,
    first_distribution,
    policy_of,
)
from components.data.store import Split
from components.online import (
    CPU,
    Devices,
    Make,
    Parallel,
    Trunk,
    head_start,
    network_on,
    score_slope,
    score_state,
    search,
    sequential,
    train_trunk,
)
from components.training import State, base_augment, compose, cross_entropy


@dataclass(frozen=True, kw_only=True)
class TrainCopy:
    """Train one copy for one trunk: crop and flip, then one of the copy's pairs for each image."""

    make: Make
    split: Split
    elements: Elements
    recipe: params.Recipe
    settings: params.Online
    seed: int
    devices: Devices = CPU

    def __call__(self, state: State, sample: Pairs, trunk: int, copy: int) -> State:
        return train_trunk(
            network_on(self.devices, self.make, copy),
            state,
            self.split,
            augment=compose(base_augment(self.recipe), augment_pairs(self.elements, sample)),
            criterion=cross_entropy(self.recipe.label_smoothing),
            recipe=self.recipe,
            settings=self.settings,
            seed=self.seed,
            trunk=trunk,
            copy=copy,
        )


@dataclass(frozen=True, kw_only=True)
class OnVal:
    """Measure a model on val, without augmentation."""

    make: Make
    split: Split
    settings: params.Online
    devices: Devices = CPU

    def score(self, state: State) -> float:
        return score_state(network_on(self.devices, self.make), state, self.split, self.settings)

    def slope(self, state: State) -> State:
        return score_slope(network_on(self.devices, self.make), state, self.split, self.settings)


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
    online = settings.online
    on_val = OnVal(make=make, split=val, settings=online, devices=devices)
    yield from search(
        distribution,
        head_start(
            network_on(devices, make),
            train,
            augment=compose(base_augment(recipe), policy_of(distribution).augment()),
            criterion=cross_entropy(recipe.label_smoothing),
            recipe=recipe,
            settings=online,
            seed=seed,
            after=after,
        ),
        train=TrainCopy(
            make=make,
            split=train,
            elements=distribution.elements,
            recipe=recipe,
            settings=online,
            seed=seed,
            devices=devices,
        ),
        score=on_val.score,
        slope=on_val.slope,
        settings=online,
        seed=seed,
        parallel=parallel,
        after=after,
    )
