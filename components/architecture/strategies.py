"""The table of strategies, and the one that the settings name."""

from collections.abc import Iterator
from dataclasses import replace

from components.architecture.budget import budget_of
from components.architecture.costs import within_memory
from components.architecture.path_weights import enas, proxyless
from components.architecture.pc_nas import pc_nas
from components.architecture.rivals import aging_evolution, evolution, random, ridge
from components.architecture.search import Pool, PoolUpdate, Strategy, World
from components.architecture.space import Space
from components.architecture.warm_start import admitted
from components.settings.architecture import Architecture

STRATEGIES: dict[str, Strategy] = {
    "pc_nas": pc_nas,
    "random": random,
    "evolution": evolution,
    "aging_evolution": aging_evolution,
    "ridge": ridge,
    "enas": enas,
    "proxyless": proxyless,
}


def search(space: Space, world: World, settings: Architecture, seed: int, start: Pool = ()) -> Iterator[PoolUpdate]:
    """The settings' strategy; one record a stage, the same records for the same seed and start.

    `start`: whole networks that are tried again, the best first; those that cannot be chosen here are dropped in the
    first record. Raises ValueError if no network is within the limits.
    """
    space = within_memory(space, settings)
    begun, left_out = admitted(start, budget_of(space, world.latency, settings), settings)
    for update in STRATEGIES[settings.strategy](space, world, settings, seed, begun):
        yield replace(update, dropped=(*update.dropped, *left_out)) if update.stage == 1 else update
