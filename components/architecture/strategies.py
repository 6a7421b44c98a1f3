"""The table of search strategies, and the search by the one that the settings name."""

from collections.abc import Iterator

from components.architecture.costs import within_memory
from components.architecture.largest import largest
from components.architecture.path_weights import enas, proxyless
from components.architecture.pc_nas import pc_nas
from components.architecture.rivals import aging_evolution, evolution, random, ridge
from components.architecture.search import PoolUpdate, Strategy, World
from components.architecture.space import Space
from components.settings.architecture import Architecture

STRATEGIES: dict[str, Strategy] = {
    "pc_nas": pc_nas,
    "random": random,
    "evolution": evolution,
    "aging_evolution": aging_evolution,
    "ridge": ridge,
    "enas": enas,
    "proxyless": proxyless,
    "largest": largest,
}


def search(space: Space, world: World, settings: Architecture, latency_ms: float, seed: int) -> Iterator[PoolUpdate]:
    """Search by the settings' strategy within a latency budget; yield one record a stage.

    The records are the same for the same seed.

    Raises ValueError if no network is within the limits.
    """
    yield from STRATEGIES[settings.strategy](within_memory(space, settings), world, settings, latency_ms, seed)
