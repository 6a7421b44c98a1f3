"""The limits on a network, and the completions of a partial model within all of them.

    k    a limit: on latency, and on the costs that the settings limit (components/architecture/costs.py)
    end  the blocks of all layers from some layer on

Limited costs add up over layers, so that the completions within a limit can be counted, and drawn uniformly by these
counts without rejection (ours). Several limits hold together:

* whether a partial model has a completion within all of them is exact: the ends that no other end undercuts in every
  cost are few, and are kept for each layer;
* completions are uniform under one limit; under several, a block's weight is the number of completions that the
tightest limit leaves it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from components.architecture.costs import ADDITIVE, costs_of
from components.architecture.space import Architecture, Space, candidates, canonical, format_architecture
from components.settings.architecture import Architecture as ArchitectureSettings

TOLERANCE = 1e-9
"""Relative tolerance of comparisons with the limit, for sums that differ in their last digits."""
BINS = 1000
"""Number of bins that a limit's spare amount is divided into for counting completions (ours); feasibility is exact."""
TRIES = 4
"""Number of draws for each completion that is wanted, because some repeat (ours)."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One limit on one cost."""

    setting: str
    """The setting that gives it, with its section."""
    unit: str
    value: float
    base: float
    """Cost of the network that is cheapest in it."""
    extras: tuple[Mapping[str, float], ...]
    """Extra cost of each block of each layer beyond the layer's cheapest."""
    bin: float
    """Cost of one bin."""
    counts: Float[np.ndarray, "layers_and_end bins"]
    """[l, s]: number of ends from layer l on that take at most s bins beyond the cheapest."""

    def left(self, prefix: Architecture) -> float:
        """Return what is left if all further layers are the cheapest; negative if no completion is within the limit."""
        taken = sum(extra[block] for extra, block in zip(self.extras, prefix, strict=False))
        return self.value * (1 + TOLERANCE) - self.base - taken

    def bins(self, left: float) -> int:
        """Return the number of whole bins in what is left."""
        return min(int(left / self.bin), BINS)

    def completions(self, layer: int, left: float) -> float:
        """Return about how many ends from a layer on take no more than is left, at least 1."""
        return max(1.0, float(self.counts[layer, self.bins(left)]))


@dataclass(frozen=True, kw_only=True)
class Budget:
    """All limits, with tables that tell which completions of a partial model fit."""

    space: Space
    limits: tuple[Limit, ...]
    """The limits, that on latency first."""
    ends: tuple[Float[np.ndarray, "_ limits"], ...]
    """[l]: costs beyond the cheapest of the ends from layer l on that no other end undercuts in all limits."""

    @property
    def limit(self) -> float:
        """The limit on latency, in milliseconds."""
        return self.limits[0].value

    @property
    def extras(self) -> tuple[Mapping[str, float], ...]:
        """Milliseconds of each block of each layer beyond the layer's cheapest."""
        return self.limits[0].extras

    def left(self, prefix: Architecture) -> Float[np.ndarray, " limits"]:
        """Return what each limit alone leaves if all further layers are the cheapest in it."""
        return np.array([limit.left(prefix) for limit in self.limits])

    def after(self, left: Float[np.ndarray, " limits"], layer: int, block: str) -> Float[np.ndarray, " limits"]:
        """Return what is left once the layer's block is settled too."""
        after: np.ndarray = left - np.array([limit.extras[layer][block] for limit in self.limits])
        return after

    def spare(self, prefix: Architecture) -> float:
        """Return what the best completion leaves of the limit that it is nearest to, in that limit's unit.

        It is negative if no completion is within all limits.
        """
        return float((self.left(prefix) - self.ends[len(prefix)]).min(axis=1).max())

    def fits(self, layer: int, left: Float[np.ndarray, " limits"]) -> bool:
        """Whether some end from the layer on takes no more than is left of every limit."""
        return bool((self.ends[layer] <= left).all(axis=1).any())

    def excess(self, prefix: Architecture) -> str:
        """Return the reason why a partial model has no completion."""
        over = [limit for limit in self.limits if limit.left(prefix) < 0]
        if not over:
            return f"over the limit: within each of {', '.join(limit.setting for limit in self.limits)}, not all"
        least = over[0].value - over[0].left(prefix)
        return f"over the limit: at least {least:.4g} {over[0].unit} of {over[0].value:.4g}"

    def choices(self, layer: int, left: Float[np.ndarray, " limits"]) -> list[tuple[str, float]]:
        """Return the blocks that still fit at a layer, each with the number of its completions."""
        result = []
        for block in self.extras[layer]:
            after = self.after(left, layer, block)
            if self.fits(layer + 1, after):
                pairs = zip(self.limits, after.tolist(), strict=True)
                result.append((block, min(limit.completions(layer + 1, mine) for limit, mine in pairs)))
        return result


def budget_of(
    space: Space, latency: Callable[[Architecture], float], settings: ArchitectureSettings, latency_ms: float
) -> Budget:
    """Return the limits over the space: that on latency, and those of the settings.

    Raises ValueError if no network is within them.
    """
    most = limit_of(settings, latency_ms)
    said = f"{latency_ms:g} ({most:.4g} after its margin)"
    limits = [make_limit(space, latency, "budget.latency_ms", "ms", most, said)]
    for setting, (unit, cost, free) in ADDITIVE.items():
        if (value := getattr(settings, setting)) is not None:
            counted, within = partial(cost_of, space, cost), value * (1 - free)
            told = f"{value} ({within:.12g} after the estimate's error)" if free else str(value)
            limits.append(make_limit(space, counted, f"architecture.{setting}", unit, within, told))
    ends = undominated_ends(limits, [candidates(space, layer) for layer in range(len(space.layers))])
    if not len(ends[0]):
        named = " and ".join(f"{limit.setting} {limit.value:.6g}" for limit in limits)
        cheapest = "; ".join(describe_cheapest(space, limits, limit) for limit in limits)
        raise ValueError(f"no network is within {named} together ({cheapest}); raise one, or offer cheaper blocks")
    return Budget(space=space, limits=tuple(limits), ends=tuple(ends))


def cost_of(space: Space, cost: Callable[..., float], architecture: Architecture) -> float:
    return float(cost(costs_of(space, architecture)))


def limit_of(settings: ArchitectureSettings, latency_ms: float) -> float:
    """Return the milliseconds that the search may use: the budget minus its margin."""
    return latency_ms * (1 - settings.margin)


def make_limit(
    space: Space, cost: Callable[[Architecture], float], setting: str, unit: str, value: float, said: str
) -> Limit:
    """Return the limit on a cost that adds up over blocks. Raises ValueError if no network is within it."""
    cheapest, extras = block_extras(space, cost)
    base = cost(cheapest)
    if base > value * (1 + TOLERANCE):
        raise ValueError(
            f"{setting} is {said}, below the cheapest network's {base:.{4 if unit == 'ms' else 12}g} "
            f"{unit} ({format_architecture(cheapest)}); raise it, or offer cheaper blocks"
        )
    dearest = sum(max(extra.values()) for extra in extras)
    size = max(min(value - base, dearest), TOLERANCE) / BINS
    counts = count_completions(extras, size)
    return Limit(setting=setting, unit=unit, value=value, base=base, extras=extras, bin=size, counts=counts)


def describe_cheapest(space: Space, limits: Sequence[Limit], limit: Limit) -> str:
    """Describe the costs, in all limits, of the network that is cheapest in one of them."""
    architecture = tuple(min(extra, key=lambda block: extra[block]) for extra in limit.extras)
    takes = [f"{one.value * (1 + TOLERANCE) - one.left(architecture):.6g} {one.unit}" for one in limits]
    return f"the least {limit.unit} take {' and '.join(takes)}"


def undominated_ends(limits: Sequence[Limit], blocks: Sequence[Sequence[str]]) -> list[Float[np.ndarray, "_ limits"]]:
    """Return, for each layer and after the last, the costs of the ends from there on that matter.

    These are the ends within the limits that no other end undercuts in all.
    """
    left = np.array([limit.left(()) for limit in limits])
    ends = [np.zeros((1, len(limits)))]
    for layer in reversed(range(len(blocks))):
        own = np.array([[limit.extras[layer][block] for limit in limits] for block in blocks[layer]])
        sums = (own[:, None] + ends[0]).reshape(-1, len(limits))
        ends.insert(0, undominated(sums[(sums <= left).all(axis=1)]))
    return ends


def undominated(costs: Float[np.ndarray, "n limits"]) -> Float[np.ndarray, "m limits"]:
    """Return the rows that no other row undercuts in all columns; of equal rows one."""
    kept = np.empty((0, costs.shape[1]))
    for row in np.unique(costs, axis=0):  # in order: a later row undercuts no earlier one
        if not (kept <= row).all(axis=1).any():
            kept = np.vstack([kept, row])
    return kept


def block_extras(
    space: Space, cost: Callable[[Architecture], float]
) -> tuple[Architecture, tuple[dict[str, float], ...]]:
    """Return the cheapest network, and each block's extra cost beyond the cheapest of its layer."""
    probe = [candidates(space, layer)[0] for layer in range(len(space.layers))]
    cheapest: list[str] = []
    extras: list[dict[str, float]] = []
    for layer in range(len(probe)):
        costs = {block: cost((*probe[:layer], block, *probe[layer + 1 :])) for block in candidates(space, layer)}
        best = min(costs, key=lambda block: costs[block])
        cheapest.append(best)
        extras.append({block: cost - costs[best] for block, cost in costs.items()})
    return tuple(cheapest), tuple(extras)


def count_completions(extras: Sequence[Mapping[str, float]], unit: float) -> Float[np.ndarray, "layers_and_end bins"]:
    """Count the ends from every layer within every number of bins; costs are rounded up."""
    counts = np.ones((len(extras) + 1, BINS + 1))
    for layer in reversed(range(len(extras))):
        counts[layer] = 0
        for extra in extras[layer].values():
            bins = int(np.ceil(extra / unit))
            if bins <= BINS:
                counts[layer, bins:] += counts[layer + 1, : BINS + 1 - bins]
    return counts


def gumbel(rng: np.random.Generator, draws: int, space: Space) -> Float[np.ndarray, "draws layers blocks"]:
    """Return standard Gumbel noise: the argmax of log weights plus noise is a draw by the weights.

    For similar weights it is mostly the same draw, so that candidates are compared on the same completions.
    """
    return rng.gumbel(size=(draws, len(space.layers), len(space.blocks)))


def complete(
    prefix: Architecture, budget: Budget, noise: Float[np.ndarray, "draws layers blocks"], count: int
) -> list[Architecture]:
    """Return up to `count` networks that begin with `prefix`, uniform among those within the limit.

    Under several limits they are nearly uniform. No two of them are the same network up to the place of identities.
    """
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
    """Draw one completion, layer by layer; a block's weight is the number of its completions."""
    architecture, left = prefix, budget.left(prefix)
    for layer in range(len(prefix), len(budget.extras)):
        blocks, weights = zip(*budget.choices(layer, left), strict=True)
        own = noise[layer, [budget.space.blocks.index(block) for block in blocks]]
        block = blocks[int(np.argmax(np.log(weights) + own))]
        architecture = (*architecture, block)
        left = budget.after(left, layer, block)
    return architecture
