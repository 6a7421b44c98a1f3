"""The optimisation box on the online engine: learning rate and weight decay, learned while the network trains.

    theta   mean log multiplier of (learning rate, weight decay); 0 at the start: the recipe's own
    s_n     what copy n trains one trunk with: both of the recipe's values times exp(s_n), the schedule's shape kept

Every hyper-parameter that is a distribution plugs into the engine like this; it is no stage of the line. To run it:

    world = MultiplierWorld(make=make, train=train, val=val, settings=Online(trunks=40, images=4000),
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

from components.online.engine import Trunk
from components.online.gaussian import Gaussian, Sample
from components.online.world import Treatment, World
from components.settings.online import Online
from components.settings.recipe import Recipe
from components.settings.require import require
from components.training.loop import State
from components.training.parallel import Parallel, sequential


@dataclass(frozen=True, kw_only=True)
class MultiplierWorld(World):
    """Where multipliers are tried."""

    settings: Online
    sigma: float = 0.3
    """Standard deviation of both log multipliers (ours): a copy tries some 0.7 to 1.4 times the mean."""

    def __post_init__(self) -> None:
        require(self.sigma > 0, f"sigma is {self.sigma}; use a positive number")
        require(
            self.settings.copies % 2 == 0,
            f"copies is {self.settings.copies}; samples come in antithetic pairs, use an even number",
        )
        require(
            not self.settings.one_model,
            f"reward is {self.settings.reward}, but a multiplier turns no gradient and changes no loss; use "
            "leave_one_out",
        )

    @property
    def online(self) -> Online:
        return self.settings

    def search(self, parallel: Parallel = sequential, after: Trunk[Sample] | None = None) -> Iterator[Trunk[Sample]]:
        """Train the network while learning the multipliers, from the recipe's values or a recorded trunk on; one record
        a trunk."""
        yield from self.search_from(Gaussian(theta=np.zeros(2), sigma=self.sigma), parallel, after=after)

    def treatment(self, sample: Sample, state: State, trunk: int, copy: int) -> Treatment:
        return replace(self.plain(), recipe=self.multiplied(sample))

    def multiplied(self, logs: Sequence[float] | Float64[np.ndarray, " 2"]) -> Recipe:
        """The recipe with both values multiplied."""
        rate, decay = (math.exp(log) for log in logs)
        return replace(
            self.recipe, learning_rate=self.recipe.learning_rate * rate, weight_decay=self.recipe.weight_decay * decay
        )
