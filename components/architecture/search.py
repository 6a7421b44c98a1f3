"""Which network: PC-NAS (Li et al., CVPR 2020, arXiv 1910.02543) and its rivals, under a latency limit.

    L  layers; stage l = 1..L settles layer l       o  a block, one of layer l's candidates
    P  partial models in the pool                   m  a member of the pool: the blocks of layers 1..l-1
    S  completions scored for each candidate        c  a candidate: m + o
    a  an architecture: a block for every layer     y  its score: accuracy on val with the shared weights

    warm up: train the supernet on uniform paths
    pool = {()}
    for l = 1..L:
        train: each batch takes layers 1..l-1 from a member, layers l..L uniform
        candidates = {m + o}
        potential(c) = what the scores of c's completions say of it
        pool = the P candidates of highest potential
        yield PoolUpdate
    choose the best of the last pool

Unlike the paper: (1) completions are drawn uniformly from those within the limit, by counting them, not by rejecting;
(2) all candidates of a stage share val images and, where the limit allows, completions; (3) candidates that are one
network by moved identities count once; (4) the last stage, where a "mean over completions" is one noisy score of one
network, scores on the whole of val; (5) `additive` potential (ours), below.

The world comes in as functions, so that any strategy runs against a table as well as against a supernet.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from components import params
from components.architecture.space import Architecture, Space, candidates, canonical, format_architecture

Pool = tuple[Architecture, ...]

TOLERANCE = 1e-9
"""Relative slack of a comparison with the limit, for sums that differ in their last digits."""
BINS = 1000
"""Steps the spare latency is cut into when completions are counted (ours); feasibility itself is exact."""
TRIES = 4
"""Draws for each completion that is asked for, because some repeat (ours)."""
PENALTIES = tuple(10.0**power for power in np.arange(-2, 3.1, 0.5))
"""Ridge penalties that generalised cross-validation chooses from (ours)."""


SURE = 0.01
"""Accuracies nearer to 0 or 1 than this count as this near: beyond it their log odds are noise (ours)."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What a strategy can do."""

    train_stage: Callable[[int, Pool], None]
    """Train the shared weights for a stage (0: warm-up), first layers from the pool's members."""
    score: Callable[[Architecture, int], float]
    """A network's accuracy on the stage's slice of val; the last stage's slice is the whole of val."""
    latency: Callable[[Architecture], float]
    """Milliseconds a network takes; its blocks' shares add up."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One evaluation."""

    stage: int
    architecture: Architecture
    score: float
    latency: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A (partial) model in the pool, or one that did not stay; None: never scored."""

    architecture: Architecture
    potential: float | None = None
    standard_error: float | None = None
    lowest: float | None = None
    """Of its completions' scores: the mean alone favours cheap beginnings with dear ends."""
    highest: float | None = None
    latency: float | None = None
    """Mean over its scored completions, milliseconds."""
    dropped: str = ""
    """Why it is not in the pool; empty for members."""


@dataclass(frozen=True, kw_only=True)
class PoolUpdate:
    """What a stage decided."""

    stage: int
    pool: tuple[Candidate, ...]
    """Best first; after the last stage, whole networks, the first of which is the choice."""
    dropped: tuple[Candidate, ...]
    scores: tuple[Scored, ...]
    """All evaluations so far."""


Strategy = Callable[[Space, World, params.Architecture, int], Iterator[PoolUpdate]]


def search(space: Space, world: World, settings: params.Architecture, seed: int) -> Iterator[PoolUpdate]:
    """The settings' strategy; one record a stage, the same records for the same seed.

    Raises ValueError if no network is within the limit.
    """
    return STRATEGIES[settings.strategy](space, world, settings, seed)


def pc_nas(space: Space, world: World, settings: params.Architecture, seed: int) -> Iterator[PoolUpdate]:
    """Shrink the space layer by layer to the partial models with the most potential."""
    budget = budget_of(space, world.latency, settings)
    world.train_stage(0, ((),))
    pool: Pool = ((),)
    scores: tuple[Scored, ...] = ()
    for stage in range(1, len(space.layers) + 1):
        world.train_stage(stage, pool)
        fresh, dropped = extend(space, pool)
        noise = stage_noise(space, settings, seed, stage)
        completions = {c: complete(c, budget, noise, settings.completions) for c in fresh}
        dropped += [Candidate(architecture=c, dropped=budget.excess(c)) for c in fresh if not completions[c]]
        alive = [c for c in fresh if completions[c]]
        assert alive, "a network within the limit has a beginning within the limit"
        scored = {c: [evaluate(world, a, stage) for a in completions[c]] for c in alive}
        scores += tuple(one for c in alive for one in scored[c])
        judged = POTENTIALS[settings.potential](space, budget, scored, scores)
        kept, outdone = best_first(judged, settings.pool)
        pool = tuple(c.architecture for c in kept)
        yield PoolUpdate(stage=stage, pool=kept, dropped=(*outdone, *dropped), scores=scores)


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


STRATEGIES: dict[str, Strategy] = {"pc_nas": pc_nas, "random": random}


def evaluate(world: World, architecture: Architecture, stage: int) -> Scored:
    score = world.score(architecture, stage)
    return Scored(stage=stage, architecture=architecture, score=score, latency=world.latency(architecture))


def extend(space: Space, pool: Pool) -> tuple[list[Architecture], list[Candidate]]:
    """Every member with every block of its next layer; of those that are one network, the first counts."""
    fresh: dict[Architecture, Architecture] = {}
    dropped: list[Candidate] = []
    for member in pool:
        for block in candidates(space, len(member)):
            candidate = (*member, block)
            first = fresh.setdefault(canonical(space, candidate), candidate)
            if first != candidate:
                reason = f"the same network as {format_architecture(first)}"
                dropped.append(Candidate(architecture=candidate, dropped=reason))
    return list(fresh.values()), dropped


def best_first(judged: Sequence[Candidate], size: int) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """The pool, and the others with their rank as the reason."""
    ranked = sorted(judged, key=lambda c: (-known(c.potential), known(c.latency), c.architecture))
    outdone = tuple(
        Candidate(**(vars(c) | {"dropped": f"rank {rank} of {len(ranked)}"}))
        for rank, c in enumerate(ranked[size:], start=size + 1)
    )
    return tuple(ranked[:size]), outdone


def known(number: float | None) -> float:
    assert number is not None
    return number


def evaluations(space: Space, settings: params.Architecture) -> list[int]:
    """How many networks each stage scores if nothing is dropped: what a rival may spend as well."""
    counts: list[int] = []
    members = 1
    for layer in range(len(space.layers)):
        grown = members * len(candidates(space, layer))
        last = layer == len(space.layers) - 1
        counts.append(grown if last else grown * settings.completions)
        members = min(settings.pool, grown)
    return counts


# The limit and the completions within it


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


def stage_noise(
    space: Space, settings: params.Architecture, seed: int, stage: int
) -> Float[np.ndarray, "draws layers blocks"]:
    """The draws that all candidates of a stage share."""
    return gumbel(np.random.default_rng([seed, stage]), settings.completions * TRIES, space)


def gumbel(rng: np.random.Generator, draws: int, space: Space) -> Float[np.ndarray, "draws layers blocks"]:
    """Standard Gumbel noise: argmax of log weights plus noise is a draw by the weights, and nearly the same draw for
    nearly the same weights, so that candidates are compared on the same completions."""
    return rng.gumbel(size=(draws, len(space.layers), len(space.blocks)))


def complete(
    prefix: Architecture, budget: Budget, noise: Float[np.ndarray, "draws layers blocks"], count: int
) -> list[Architecture]:
    """Up to `count` different whole networks that begin with `prefix`, uniform among those within the limit."""
    if budget.spare(prefix) < 0:
        return []
    found: dict[Architecture, None] = {}
    for draw in noise:
        found[complete_once(prefix, budget, draw)] = None
        if len(found) == count:
            break
    return list(found)


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


# What a candidate's scores say of it

Potential = Callable[[Space, Budget, Mapping[Architecture, Sequence[Scored]], Sequence[Scored]], list[Candidate]]
"""(space, budget, this stage's scores by candidate, all scores so far) -> judged candidates."""


def mean_potential(
    space: Space,
    budget: Budget,
    scored: Mapping[Architecture, Sequence[Scored]],
    scores: Sequence[Scored],
) -> list[Candidate]:
    """The paper's: the mean score of the candidate's completions, with its standard error."""
    return [judged(c, ones, *mean_and_error([one.score for one in ones])) for c, ones in scored.items()]


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def judged(
    architecture: Architecture, ones: Sequence[Scored], potential: float, standard_error: float | None
) -> Candidate:
    return Candidate(
        architecture=architecture,
        potential=potential,
        standard_error=standard_error,
        lowest=min(one.score for one in ones),
        highest=max(one.score for one in ones),
        latency=float(np.mean([one.latency for one in ones])),
    )


@dataclass(frozen=True, kw_only=True)
class Additive:
    """Log odds of a score = level of the stage + effect of each layer's block: ridge over all scores so far."""

    columns: Mapping[tuple[int, str], int]
    effects: Float[np.ndarray, " p"]
    covariance: Float[np.ndarray, "p p"]
    level: float
    mean_row: Float[np.ndarray, " p"]
    """Level and mean row of the newest stage: predictions are for its weights."""

    def predict(self, architecture: Architecture) -> tuple[float, float]:
        """Expected score and its standard error (to first order)."""
        x = row_of(self.columns, architecture) - self.mean_row
        score = float(1 / (1 + np.exp(-(self.level + x @ self.effects))))
        return score, score * (1 - score) * float(np.sqrt(max(0.0, x @ self.covariance @ x)))


def log_odds(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Log odds of shares in 0..1, those at the ends kept finite. A better block lifts the log odds of a good and of a
    bad network alike; accuracies themselves saturate, and their sums leave 0..1."""
    inside = np.clip(scores, SURE, 1 - SURE)
    result: np.ndarray = np.log(inside / (1 - inside))
    return result


def row_of(columns: Mapping[tuple[int, str], int], architecture: Architecture) -> Float[np.ndarray, " p"]:
    """One-hot blocks of all layers."""
    row = np.zeros(len(columns))
    row[[columns[place] for place in enumerate(architecture)]] = 1
    return row


def fit_additive(space: Space, scores: Sequence[Scored]) -> Additive:
    """Ridge on block effects; stages are centred, because the shared weights improve from stage to stage."""
    places = [(layer, block) for layer in range(len(space.layers)) for block in candidates(space, layer)]
    columns = {place: index for index, place in enumerate(places)}
    rows = np.array([row_of(columns, one.architecture) for one in scores])
    targets = log_odds(np.array([one.score for one in scores]))
    stages = np.array([one.stage for one in scores])
    level, mean_row = 0.0, np.zeros(len(columns))
    for stage in np.unique(stages):
        here = stages == stage
        level, mean_row = float(targets[here].mean()), rows[here].mean(axis=0)
        rows[here] -= mean_row
        targets[here] -= level
    effects, covariance = ridge(rows, targets, freedom=len(targets) - len(np.unique(stages)))
    return Additive(columns=columns, effects=effects, covariance=covariance, level=level, mean_row=mean_row)


def ridge(
    rows: Float[np.ndarray, "n p"], targets: Float[np.ndarray, " n"], freedom: int
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, "p p"]]:
    """Coefficients and their covariance, at the penalty of least generalised cross-validation error.

    `freedom`: observations less the means already taken out.
    """
    values, basis = np.linalg.eigh(rows.T @ rows)
    values = np.maximum(values, 0)
    moments = basis.T @ (rows.T @ targets)
    best: tuple[float, float, float] | None = None
    for penalty in PENALTIES:
        residual = targets - rows @ (basis @ (moments / (values + penalty)))
        left = max(1e-6, freedom - float(np.sum(values / (values + penalty))))
        error = float(residual @ residual)
        if best is None or error / left**2 < best[0]:
            best = (error / left**2, penalty, error / left)
    assert best is not None
    _, penalty, variance = best
    inverse = basis / (values + penalty) @ basis.T
    return basis @ (moments / (values + penalty)), variance * inverse


def additive_potential(
    space: Space,
    budget: Budget,
    scored: Mapping[Architecture, Sequence[Scored]],
    scores: Sequence[Scored],
) -> list[Candidate]:
    """Ours: the score that one additive model of all scores so far expects of the candidate's best completion within
    the limit (an exact knapsack), with its standard error.

    Where scores are noisy, the model averages over hundreds of them, not over S; and the best completion, unlike the
    mean one, does not favour cheap beginnings. A whole network's potential is what the model expects of it.
    """
    model = fit_additive(space, scores)
    ends = best_ends(budget, model)
    return [judged(c, ones, *model.predict(finish(c, budget, ends))) for c, ones in scored.items()]


def best_ends(budget: Budget, model: Additive) -> list[list[str]]:
    """[layer][s]: the block of that layer with which the best end within s bins begins (costs are rounded up)."""
    value_of_rest = np.zeros(BINS + 1)
    ends: list[list[str]] = []
    for layer in reversed(range(len(budget.extras))):
        blocks = list(budget.extras[layer])
        values = np.full((len(blocks), BINS + 1), -np.inf)
        for index, block in enumerate(blocks):
            bins = int(np.ceil(budget.extras[layer][block] / budget.unit))
            effect = model.effects[model.columns[layer, block]]
            if bins <= BINS:
                values[index, bins:] = effect + value_of_rest[: BINS + 1 - bins]
        ends.append([blocks[index] for index in values.argmax(axis=0)])
        value_of_rest = values.max(axis=0)
    return ends[::-1]


def finish(prefix: Architecture, budget: Budget, ends: Sequence[Sequence[str]]) -> Architecture:
    """The prefix with the best end that fits."""
    architecture, spare = prefix, budget.spare(prefix)
    for layer in range(len(prefix), len(ends)):
        block = ends[layer][min(BINS, int(spare / budget.unit))]
        architecture = (*architecture, block)
        spare -= budget.extras[layer][block]
    return architecture


POTENTIALS: dict[str, Potential] = {"mean": mean_potential, "additive": additive_potential}
