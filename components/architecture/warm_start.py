"""A search that starts from the networks which another one, of earlier images, ended with.

They take places among the networks that a stage scores, so that a start costs no evaluation, and they are judged as all
others are: whatever the start was, the last stage can choose from it again, and from what the search found beside it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.architecture.budget import Budget
from components.architecture.search import Candidate, Pool
from components.architecture.space import Architecture, Space, blocks_of, canonical, format_architecture, misfit
from components.settings.architecture import Architecture as ArchitectureSettings
from components.settings.params import OtherSpace
from components.settings.require import require


def admitted(start: Pool, budget: Budget, settings: ArchitectureSettings) -> tuple[Pool, tuple[Candidate, ...]]:
    """Of the start, at most the settings' pool of networks that can be chosen here, no two of them one network by
    moved identities; and those that cannot, with the reason."""
    fitting: list[Architecture] = []
    left_out: list[Candidate] = []
    for architecture in start:
        reason = misfit(budget.space, architecture)
        if not reason and budget.spare(architecture) < 0:
            reason = budget.excess(architecture)
        if reason:
            left_out.append(Candidate(architecture=architecture, dropped=f"of the start, but {reason}"))
        else:
            fitting.append(architecture)
    return tuple(by_form(budget.space, fitting).values())[: settings.pool], tuple(left_out)


def to_warm_start(pools: Mapping[float, Pool]) -> dict[str, Any]:
    """JSON values that a later search can start from: of each budget the networks that were left, the choice first."""
    return {
        "budgets": [
            {"latency_ms": budget, "networks": [format_architecture(a) for a in pool]} for budget, pool in pools.items()
        ]
    }


def from_warm_start(record: Mapping[str, Any], space: Space, settings: ArchitectureSettings) -> list[Pool]:
    """For each of the settings' budgets the networks of the record's nearest.

    Raises OtherSpace if none of all is one of the space's; KeyError, ValueError.
    """
    pools = {entry["latency_ms"]: tuple(map(blocks_of, entry["networks"])) for entry in record["budgets"]}
    reasons = [misfit(space, a) for pool in pools.values() for a in pool]
    require(reasons != [], "it names no network")
    if all(reasons):
        raise OtherSpace(f"none of its {len(reasons)} networks is of this space; of the first, {reasons[0]}")
    return [pools[min(pools, key=lambda other: abs(other - budget))] for budget in settings.budgets]


def first_of(
    space: Space, start: Iterable[Architecture], others: Sequence[Architecture], count: int
) -> tuple[list[Architecture], list[Architecture]]:
    """`count` (partial) networks, those of the start among them, and the others, the last of which gave way.

    Where both name one network, the others' form of it stays.
    """
    named, begun = by_form(space, others), by_form(space, start)
    ordered = [named.get(form, a) for form, a in (begun | named).items()]
    return ordered[:count], ordered[count:]


def by_form(space: Space, networks: Iterable[Architecture]) -> dict[Architecture, Architecture]:
    """The first of those that are one network by moved identities, in their order."""
    first: dict[Architecture, Architecture] = {}
    for architecture in networks:
        first.setdefault(canonical(space, architecture), architecture)
    return first
