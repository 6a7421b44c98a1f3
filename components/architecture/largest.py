"""The largest network within the limits, which is what one would train without a search.

It is also the search strategy `largest`: no training, one record. The plan chooses it where the minutes bring more in
the final training.
"""

from collections.abc import Iterator

from components.architecture.budget import Budget, budget_of
from components.architecture.costs import block_costs
from components.architecture.search import Candidate, PoolUpdate, World
from components.architecture.space import Architecture, Space
from components.settings.architecture import Architecture as ArchitectureSettings

BEAM = 5000
"""Number of partial networks that are kept: up to so many, the result is exact (ours)."""


def largest_within(budget: Budget) -> Architecture:
    """Return the network with the most FLOPs of those within the limits, found layer by layer."""
    space = budget.space
    beam: list[tuple[int, Architecture]] = [(0, ())]
    for index, layer in enumerate(space.layers):
        longer = [
            (flops + block_costs(block, layer).flops, (*prefix, block))
            for flops, prefix in beam
            for block, _ in budget.choices(index, budget.left(prefix))
        ]
        beam = sorted(longer, reverse=True)[:BEAM]
    return beam[0][1]


def largest(
    space: Space, world: World, settings: ArchitectureSettings, latency_ms: float, seed: int
) -> Iterator[PoolUpdate]:
    """Yield one record, with the largest network within the limits."""
    chosen = largest_within(budget_of(space, world.latency, settings, latency_ms))
    member = Candidate(architecture=chosen, latency=world.latency(chosen))
    yield PoolUpdate(stage=len(space.layers), pool=(member,), dropped=(), scores=())
