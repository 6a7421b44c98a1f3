"""Search for several budgets with one supernet: one search for each, in step, so that all score with the same weights.

In a stage the shared weights are trained once, on paths that begin like any member of any budget's pool. Then each
search scores its own candidates. With one budget this is the ordinary search.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count

from components.architecture.budget import budget_of
from components.architecture.costs import within_memory
from components.architecture.search import Pool, PoolUpdate, World
from components.architecture.space import Space
from components.architecture.strategies import search
from components.settings.architecture import Architecture

UNIFORM_PATHS: Pool = ((),)
"""The pool of uniform paths."""


def search_all(
    space: Space, world: World, settings: Architecture, budgets: Sequence[float], seed: int
) -> Iterator[tuple[PoolUpdate, ...]]:
    """Search for all budgets (milliseconds); yield each stage's records in the order of budgets.

    Raises ValueError, before any training, if no network is within one of the budgets.
    """
    for latency_ms in budgets:
        budget_of(within_memory(space, settings), world.latency, settings, latency_ms)
    if len(budgets) == 1:
        yield from zip(search(space, world, settings, budgets[0], seed), strict=True)
        return
    shared = SharedTraining(world)
    searches = [
        shared.record_pools(index, search(space, shared.world_of(index), settings, latency_ms, seed))
        for index, latency_ms in enumerate(budgets)
    ]
    yield from zip(*searches, strict=True)


@dataclass
class SharedTraining:
    """Trains each stage once for all searches, on the pools of all."""

    world: World
    pools: dict[int, Pool] = field(default_factory=dict)
    """Pool of each search after its last stage, by the search's index."""
    done: list[tuple[int, Pool]] = field(default_factory=list)
    """Trainings so far: (stage, members that paths began with)."""

    def record_pools(self, index: int, updates: Iterator[PoolUpdate]) -> Iterator[PoolUpdate]:
        """Pass a search's records on; its pool is known before the next search makes its record."""
        for update in updates:
            self.pools[index] = tuple(c.architecture for c in update.pool)
            yield update

    def world_of(self, index: int) -> World:
        return replace(self.world, train_stage=partial(self.train_stage, index, count()))

    def train_stage(self, index: int, calls: Iterator[int], stage: int, pool: Pool) -> None:
        turn = next(calls)
        if turn == len(self.done):
            assert pool in (UNIFORM_PATHS, self.pools.get(index)), (
                "the settings refuse strategies that train on other paths"
            )
            members = UNIFORM_PATHS if pool == UNIFORM_PATHS else tuple(dict.fromkeys(chain(*self.pools.values())))
            self.world.train_stage(stage, members)
            self.done.append((stage, members))
        assert self.done[turn][0] == stage
        assert set(pool) <= set(self.done[turn][1])
