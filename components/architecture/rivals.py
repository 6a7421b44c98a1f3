"""The rivals of PC-NAS whose weights are trained uniformly (SPOS: Guo et al., ECCV 2020, arXiv 1904.00420).

    L  stages                    n_l  evaluations of stage l, as many as PC-NAS would make

    train the supernet on uniform paths, for as long as PC-NAS would
    for l = 1..L-1: n_l times, score a network that was not scored before, on one slice of val
    score the n_L finalists on the whole of val; choose the best

`random` draws networks, `evolution` (SPOS) and `aging_evolution` (Real et al., AAAI 2019, arXiv 1802.01548) breed them,
`ridge` draws them and takes as finalists those with the highest expected scores by an additive model.

No network over the limit is scored: a child over it is dropped with its reason, and another is bred. Before the last
stage no network is scored twice: the weights do not change, so the second score would equal the first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np

from components.architecture.additive import Additive, best_ends, finish, fit_additive
from components.architecture.budget import Budget, budget_of, complete, complete_once, gumbel
from components.architecture.pc_nas import POTENTIALS, Potential, mean_potential
from components.architecture.search import (
    Candidate,
    PoolUpdate,
    Scored,
    World,
    best_first,
    best_scored,
    evaluate_all,
    evaluations,
)
from components.architecture.space import Architecture, Space, candidates, canonical
from components.settings.architecture import Architecture as ArchitectureSettings
from components.streams import stream

SLICE = 1
"""The stage whose slice of val all networks before the last stage are scored on, so that their scores compare."""
PATIENCE = 20
"""Number of children bred, and of networks drawn, for each wanted: some are over the limit or known (ours)."""
PARENTS = 0.2
"""Share of a population that SPOS breeds from (paper: 10 of 50)."""
CONTESTANTS = 0.25
"""Share of a population that aging evolution draws, to breed from the best of them (paper: 25 of 100)."""

Breed = Callable[[Space, ArchitectureSettings, Sequence[Scored], np.random.Generator], Iterator[Architecture]]
"""(space, settings, scores so far, rng) -> endless children, some of them over the limit or known."""
Finalists = Callable[[Budget, Sequence[Scored], int], list[Architecture]]
"""(budget, scores so far, number) -> the networks that are scored on the whole of val."""


def best_so_far(budget: Budget, scores: Sequence[Scored], count: int) -> list[Architecture]:
    return best_scored(budget.space, scores, count)


def best_expected(budget: Budget, scores: Sequence[Scored], count: int) -> list[Architecture]:
    return best_networks(budget, fit_additive(budget.space, scores), count)


def best_networks(budget: Budget, model: Additive, count: int) -> list[Architecture]:
    """Return up to `count` networks within the limit with the highest expected scores, best first.

    No two of them are the same network up to the place of identities. Layer by layer, the `count` beginnings with the
    best completions are kept: a network is among the best only if each of its beginnings is.
    """
    ends = best_ends(budget, model)
    beginnings: list[Architecture] = [()]
    for extra in budget.extras:
        grown = [(*prefix, block) for prefix in beginnings for block in extra]
        within = [prefix for prefix in grown if budget.spare(prefix) >= 0]
        within.sort(key=lambda prefix: -model.predict(finish(prefix, budget, ends))[0])
        different: dict[Architecture, Architecture] = {}
        for prefix in within:
            different.setdefault(canonical(budget.space, prefix), prefix)
        beginnings = list(different.values())[:count]
    return beginnings


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The choices that define a rival."""

    breed: Breed | None = None
    """How networks are found once a population is scored; None: all are drawn uniformly under the limit."""
    steady: bool = False
    """Whether each child is scored before the next is bred; else a whole population is bred at a time."""
    finalists: Finalists = best_so_far
    potential: Potential = mean_potential
    """The estimate from the scores of a network before the last stage."""
    verdict: Potential = mean_potential
    """The estimate from the scores of a finalist in the last stage."""


def random(
    space: Space, world: World, settings: ArchitectureSettings, latency_ms: float, seed: int
) -> Iterator[PoolUpdate]:
    """Search at random, as the control: draw networks uniformly under the limit."""
    return search_uniformly_trained(Rule(), space, world, settings, latency_ms, seed)


def evolution(
    space: Space, world: World, settings: ArchitectureSettings, latency_ms: float, seed: int
) -> Iterator[PoolUpdate]:
    """Search by evolution as in SPOS: breed generations from the best networks so far."""
    return search_uniformly_trained(Rule(breed=breed_from_best), space, world, settings, latency_ms, seed)


def aging_evolution(
    space: Space, world: World, settings: ArchitectureSettings, latency_ms: float, seed: int
) -> Iterator[PoolUpdate]:
    """Search by aging evolution (Real et al., Algorithm 1): with each child the oldest network dies, even if good."""
    return search_uniformly_trained(Rule(breed=breed_from_young, steady=True), space, world, settings, latency_ms, seed)


def ridge(
    space: Space, world: World, settings: ArchitectureSettings, latency_ms: float, seed: int
) -> Iterator[PoolUpdate]:
    """Fit main effects to random networks by ridge regression, and verify the networks with the best expected scores.

    `settings.potential` chooses among those: `mean` by the verified score, `additive` by the model of all scores.
    """
    additive, verdict = POTENTIALS["additive"], POTENTIALS[settings.potential]
    rule = Rule(finalists=best_expected, potential=additive, verdict=verdict)
    return search_uniformly_trained(rule, space, world, settings, latency_ms, seed)


def search_uniformly_trained(
    rule: Rule, space: Space, world: World, settings: ArchitectureSettings, latency_ms: float, seed: int
) -> Iterator[PoolUpdate]:
    """Search on a uniformly trained supernet; yield one record a stage.

    The pool is the best networks so far; the dropped are the others and those over the limit.
    """
    budget = budget_of(space, world.latency, settings, latency_ms)
    *planned, final = evaluations(space, settings)
    last = len(planned) + 1
    for stage in range(last + 1):
        world.train_stage(stage, ((),))
    scores: tuple[Scored, ...] = ()
    pool: tuple[Candidate, ...] = ()
    held: dict[Architecture, list[Scored]] = {}
    for stage, count in enumerate(planned, start=1):
        rng = stream(seed, "networks", stage)
        fresh, over = explore(rule, world, settings, budget, scores, stage, count, rng)
        scores += fresh
        held |= {one.architecture: [one] for one in fresh}
        pool, outdone = best_first(rule.potential(space, budget, held, scores), settings.pool)
        held = {c.architecture: held[c.architecture] for c in pool}
        yield PoolUpdate(stage=stage, pool=pool, dropped=(*outdone, *over), scores=scores)
    noise = gumbel(stream(seed, "networks", last), PATIENCE * final, space)
    chosen = rule.finalists(budget, scores, final) if scores else complete((), budget, noise, final)
    yield verify(rule.verdict, world, settings, budget, scores, chosen, pool)


def verify(
    potential: Potential,
    world: World,
    settings: ArchitectureSettings,
    budget: Budget,
    scores: tuple[Scored, ...],
    chosen: Sequence[Architecture],
    pool: Sequence[Candidate],
) -> PoolUpdate:
    """Make the last stage: score the chosen on the whole of val, and drop members of the last pool not among them."""
    stage = len(budget.space.layers)
    scored = {one.architecture: [one] for one in evaluate_all(world, chosen, stage)}
    scores += tuple(one for ones in scored.values() for one in ones)
    kept, outdone = best_first(potential(budget.space, budget, scored, scores), settings.pool)
    missed = [
        replace(c, dropped=f"not among the {len(scored)} finalists") for c in pool if c.architecture not in scored
    ]
    return PoolUpdate(stage=stage, pool=kept, dropped=(*outdone, *missed), scores=scores)


def explore(
    rule: Rule,
    world: World,
    settings: ArchitectureSettings,
    budget: Budget,
    scores: Sequence[Scored],
    stage: int,
    count: int,
    rng: np.random.Generator,
) -> tuple[tuple[Scored, ...], tuple[Candidate, ...]]:
    """Evaluate up to `count` networks not scored before; return these, and the children that were over the limit."""
    seen = {canonical(budget.space, one.architecture) for one in scores}
    fresh: list[Scored] = []
    over: dict[Architecture, Candidate] = {}
    while len(fresh) < count:
        known, size = (*scores, *fresh), count - len(fresh)
        children: Iterator[Architecture] = iter(())
        if rule.breed and len(known) < settings.population:
            size = min(size, settings.population - len(known))
        elif rule.breed:
            size = min(size, 1 if rule.steady else settings.population)
            children = rule.breed(budget.space, settings, known, rng)
        admitted: list[Architecture] = []
        bred, uniform = islice(children, PATIENCE * size), islice(draw_networks(budget, rng), PATIENCE * size)
        for child in chain(bred, uniform):
            form = canonical(budget.space, child)
            if budget.spare(child) < 0:
                over[child] = Candidate(architecture=child, dropped=budget.excess(child))
            elif form not in seen:
                seen.add(form)
                admitted.append(child)
            if len(admitted) == size:
                break
        if not admitted:
            break  # the limit leaves no other network
        fresh += evaluate_all(world, admitted, stage, SLICE)
    return tuple(fresh), tuple(over.values())


def draw_networks(budget: Budget, rng: np.random.Generator) -> Iterator[Architecture]:
    """Yield networks uniformly from those within the limit, without end."""
    while True:
        (noise,) = gumbel(rng, 1, budget.space)
        yield complete_once((), budget, noise)


# Children


def breed_from_best(
    space: Space, settings: ArchitectureSettings, scores: Sequence[Scored], rng: np.random.Generator
) -> Iterator[Architecture]:
    """Breed as in SPOS: half are mutants of one of the best (each layer is redrawn at times), half crosses of two."""
    size = max(2, round(PARENTS * settings.population))
    parents = best_scored(space, scores, size)
    while True:
        mother, father = (parents[int(i)] for i in rng.integers(len(parents), size=2))
        if rng.random() < 0.5:
            yield tuple(m if rng.random() < 0.5 else f for m, f in zip(mother, father, strict=True))
        else:
            redrawn = rng.random(len(mother)) < settings.mutation
            yield tuple(
                draw_block(candidates(space, layer), rng) if redrawn[layer] else block
                for layer, block in enumerate(mother)
            )


def breed_from_young(
    space: Space, settings: ArchitectureSettings, scores: Sequence[Scored], rng: np.random.Generator
) -> Iterator[Architecture]:
    """Breed as in aging evolution: change one layer's block in the best of a few of the networks scored last.

    There are no children if no layer has another block.
    """
    if all(len(candidates(space, layer)) == 1 for layer in range(len(space.layers))):
        return
    living = scores[-settings.population :]
    size = max(2, round(CONTESTANTS * settings.population))
    while True:
        parent = max((living[int(i)] for i in rng.integers(len(living), size=size)), key=lambda one: one.score)
        layer = int(rng.integers(len(space.layers)))
        blocks = [block for block in candidates(space, layer) if block != parent.architecture[layer]]
        if blocks:
            yield (*parent.architecture[:layer], draw_block(blocks, rng), *parent.architecture[layer + 1 :])


def draw_block(blocks: Sequence[str], rng: np.random.Generator) -> str:
    return blocks[int(rng.integers(len(blocks)))]
