"""The rivals of PC-NAS, at the same cost: as many evaluations, weights trained as long."""

from collections.abc import Iterator

import numpy as np

from components import params
from components.architecture.budget import TRIES, budget_of, complete, gumbel
from components.architecture.pc_nas import mean_potential
from components.architecture.search import PoolUpdate, Scored, World, best_first, evaluate, evaluations
from components.architecture.space import Space


def random(space: Space, world: World, settings: params.Architecture, seed: int) -> Iterator[PoolUpdate]:
    """The control: as many evaluations of networks drawn uniformly under the limit, weights trained uniformly;
    the best of them are scored once more on the whole of val."""
    budget = budget_of(space, world.latency, settings)
    world.train_stage(0, ((),))
    scores: tuple[Scored, ...] = ()
    planned = evaluations(space, settings)
    for stage, count in enumerate(planned, start=1):
        world.train_stage(stage, ((),))
        if stage < len(planned) or not scores:
            noise = gumbel(np.random.default_rng([seed, stage]), count * TRIES, space)
            drawn = complete((), budget, noise, count)
        else:
            ranked = sorted(scores, key=lambda one: -one.score)
            drawn = list(dict.fromkeys(one.architecture for one in ranked))[:count]
        scored = {a: [evaluate(world, a, stage)] for a in drawn}
        scores += tuple(one for ones in scored.values() for one in ones)
        kept, outdone = best_first(mean_potential(space, budget, scored, scores), settings.pool)
        yield PoolUpdate(stage=stage, pool=kept, dropped=outdone, scores=scores)
