"""The optimisation box on the online engine: learning rate and weight decay, learned while the network trains.

    theta   mean log multiplier of (learning rate, weight decay); 0 at the start: the recipe's own
    s_n     what copy n trains one trunk with: both of the recipe's values times exp(s_n), the schedule's shape kept

Every hyper-parameter that is a distribution plugs into the engine like this; it is no stage of the line. To run it:

    world = World(make=make, train=train, val=val, augment=compose(), settings=Online(trunks=40, images=4000),
                  recipe=Recipe(), seed=0)
    *_, last = world.search()                   # last.state is the trained model
    recipe = world.multiplied(last.theta)       # and this what to train the next one with

The reward sees one trunk, so a rate that only pays later (a high one, before the schedule falls) is undervalued.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from components.data.store import Split
from components.gaussian import Gaussian, Sample
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
from components.params import Online, Recipe, require
from components.training import Augment, State, base_augment, compose, cross_entropy


@dataclass(frozen=True, kw_only=True)
class World:
    """Where multipliers are tried. Workers get it whole."""

    make: Make
    train: Split
    val: Split
    augment: Augment
    """After the recipe's crop and flip."""
    settings: Online
    recipe: Recipe
    sigma: float = 0.3
    """Standard deviation of both log multipliers (ours): a copy tries some 0.7 to 1.4 times the mean."""
    seed: int
    devices: Devices = CPU

    def __post_init__(self) -> None:
        require(self.sigma > 0, f"sigma is {self.sigma}; use a positive number")
        require(
            self.settings.copies % 2 == 0,
            f"copies is {self.settings.copies}; samples come in antithetic pairs, use an even number",
        )

    def search(self, parallel: Parallel = sequential, after: Trunk[Sample] | None = None) -> Iterator[Trunk[Sample]]:
        """Train the network while learning the multipliers, from the recipe's values or a recorded trunk on; one record
        a trunk."""
        yield from search(
            Gaussian(theta=np.zeros(2), sigma=self.sigma),
            head_start(
                network_on(self.devices, self.make),
                self.train,
                augment=compose(base_augment(self.recipe), self.augment),
                criterion=cross_entropy(self.recipe.label_smoothing),
                recipe=self.recipe,
                settings=self.settings,
                seed=self.seed,
                after=after,
            ),
            train=self.train_copy,
            score=self.score_copy,
            slope=self.slope_copy,
            settings=self.settings,
            seed=self.seed,
            parallel=parallel,
            after=after,
        )

    def train_copy(self, state: State, sample: Sample, trunk: int, copy: int) -> State:
        return train_trunk(
            network_on(self.devices, self.make, copy),
            state,
            self.train,
            augment=compose(base_augment(self.recipe), self.augment),
            criterion=cross_entropy(self.recipe.label_smoothing),
            recipe=self.multiplied(sample),
            settings=self.settings,
            seed=self.seed,
            trunk=trunk,
            copy=copy,
        )

    def score_copy(self, state: State) -> float:
        return score_state(network_on(self.devices, self.make), state, self.val, self.settings)

    def slope_copy(self, state: State) -> State:
        return score_slope(network_on(self.devices, self.make), state, self.val, self.settings)

    def multiplied(self, logs: Sequence[float] | Float64[np.ndarray, " 2"]) -> Recipe:
        """The recipe with both values multiplied."""
        rate, decay = (math.exp(log) for log in logs)
        return replace(
            self.recipe, learning_rate=self.recipe.learning_rate * rate, weight_decay=self.recipe.weight_decay * decay
        )
