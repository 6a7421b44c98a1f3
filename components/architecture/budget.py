"""The limit on a network's latency, and the completions of a partial model within it.

Latencies add up over layers, so the completions within the limit can be counted, and drawn uniformly by the counts
(ours: nothing is drawn to be rejected).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from components import params
from components.architecture.space import Architecture, Space, candidates, canonical, format_architecture

TOLERANCE = 1e-9
"""Relative slack of a comparison with the limit, for sums that differ in their last digits."""
BINS = 1000
"""Steps the spare latency is cut into when completions are counted (ours); feasibility itself is exact."""
TRIES = 4
"""Draws for each completion that is asked for, because some repeat (ours)."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limit in a form that tells at once what a partial model can still become."""

    space: Space
    limit: float
    base: float
    """Milliseconds of the cheapest network."""
    extras: tuple[Mapping[str, float], ...]
    """What each block of each layer takes beyond the layer's cheapest, milliseconds."""
    unit: float
    """Milliseconds of a bin."""
    counts: Float[np.ndarray, "layers_and_end bins"]
    """[l, s]: completions from layer l on that take at most s bins beyond the cheapest."""

    def spare(self, prefix: Architecture) -> float:
        """Milliseconds left if all further layers are the cheapest; negative: none of its completions fits."""
        taken = sum(extra[block] for extra, block in zip(self.extras, prefix, strict=False))
        return self.limit * (1 + TOLERANCE) - self.base - taken

    def left(self, prefix: Architecture) -> float:
        """What `choices` is asked with."""
        return self.spare(prefix)

    def excess(self, prefix: Architecture) -> str:
        """Why a partial model has no completion."""
        least = self.limit - self.spare(prefix)
        return f"over the limit: at least {least:.4g} ms of {self.limit:.4g}"

    def choices(self, layer: int, spare: float) -> list[tuple[str, float]]:
        """The blocks that still fit at a layer, each with the number of completions behind it."""
        result = []
        for block, extra in self.extras[layer].items():
            left = spare - extra
            if left >= 0:
                bin_left = min(int(left / self.unit), self.counts.shape[1] - 1)
                result.append((block, max(1.0, float(self.counts[layer + 1, bin_left]))))
        return result


def budget_of(space: Space, latency: Callable[[Architecture], float], settings: params.Architecture) -> Budget:
    """The settings' limit over the space. Raises ValueError if no network is within it."""
    cheapest, extras = block_extras(space, latency)
    limit, base = limit_of(settings), latency(cheapest)
    if base > limit * (1 + TOLERANCE):
        raise ValueError(
            f"architecture.latency_ms is {settings.latency_ms:g} ({limit:.4g} after its margin), below the cheapest "
            f"network's {base:.4g} ms ({format_architecture(cheapest)}); raise it, or offer cheaper blocks"
        )
    dearest = sum(max(extra.values()) for extra in extras)
    unit = max(min(limit - base, dearest), TOLERANCE) / BINS
    counts = count_completions(extras, unit)
    return Budget(space=space, limit=limit, base=base, extras=extras, unit=unit, counts=counts)


def limit_of(settings: params.Architecture) -> float:
    """Milliseconds the search may use: the budget less its margin."""
    return settings.latency_ms * (1 - settings.margin)


def block_extras(
    space: Space, latency: Callable[[Architecture], float]
) -> tuple[Architecture, tuple[dict[str, float], ...]]:
    """The cheapest network, and each block's milliseconds beyond the cheapest of its layer."""
    probe = [candidates(space, layer)[0] for layer in range(len(space.layers))]
    cheapest: list[str] = []
    extras: list[dict[str, float]] = []
    for layer in range(len(probe)):
        costs = {block: latency((*probe[:layer], block, *probe[layer + 1 :])) for block in candidates(space, layer)}
        best = min(costs, key=lambda block: costs[block])
        cheapest.append(best)
        extras.append({block: cost - costs[best] for block, cost in costs.items()})
    return tuple(cheapest), tuple(extras)


def count_completions(extras: Sequence[Mapping[str, float]], unit: float) -> Float[np.ndarray, "layers_and_end bins"]:
    """Completions from every layer within every number of bins; costs are rounded up."""
    counts = np.ones((len(extras) + 1, BINS + 1))
    for layer in reversed(range(len(extras))):
        counts[layer] = 0
        for extra in extras[layer].values():
            bins = int(np.ceil(extra / unit))
            if bins <= BINS:
                counts[layer, bins:] += counts[layer + 1, : BINS + 1 - bins]
    return counts


def gumbel(rng: np.random.Generator, draws: int, space: Space) -> Float[np.ndarray, "draws layers blocks"]:
    """Standard Gumbel noise: argmax of log weights plus noise is a draw by the weights, and nearly the same draw for
    nearly the same weights, so that candidates are compared on the same completions."""
    return rng.gumbel(size=(draws, len(space.layers), len(space.blocks)))


def complete(
    prefix: Architecture, budget: Budget, noise: Float[np.ndarray, "draws layers blocks"], count: int
) -> list[Architecture]:
    """Up to `count` whole networks that begin with `prefix`, uniform among those within the limit, no two of them one
    network by moved identities."""
    if budget.spare(prefix) < 0:
        return []
    found: dict[Architecture, Architecture] = {}
    for draw in noise:
        completion = complete_once(prefix, budget, draw)
        found.setdefault(canonical(budget.space, completion), completion)
        if len(found) == count:
            break
    return list(found.values())


def complete_once(prefix: Architecture, budget: Budget, noise: Float[np.ndarray, "layers blocks"]) -> Architecture:
    """One completion, layer by layer: a block's weight is the number of completions behind it."""
    architecture, spare = prefix, budget.spare(prefix)
    for layer in range(len(prefix), len(budget.extras)):
        blocks, weights = zip(*budget.choices(layer, spare), strict=True)
        own = noise[layer, [budget.space.blocks.index(block) for block in blocks]]
        block = blocks[int(np.argmax(np.log(weights) + own))]
        architecture = (*architecture, block)
        spare -= budget.extras[layer][block]
    return architecture
