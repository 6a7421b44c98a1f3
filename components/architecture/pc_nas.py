"""PC-NAS (Li et al., CVPR 2020, arXiv 1910.02543): shrink the space layer by layer, under a latency limit.

    L  layers; stage l = 1..L settles layer l       o  a block, one of layer l's candidates
    P  partial models in the pool                   m  a member of the pool: the blocks of layers 1..l-1
    S  completions scored for each candidate        c  a candidate: m + o
    a  an architecture: a block for every layer     y  its score on val with the shared weights, 0 to 1

    warm up: train the supernet on uniform paths
    pool = {()}
    for l = 1..L:
        train: each batch takes layers 1..l-1 from a member, layers l..L uniform
        candidates = {m + o}
        potential(c) = an estimate from the scores of c's completions
        pool = the P candidates of highest potential
        yield PoolUpdate
    choose the best of the last pool

Unlike the paper: (1) completions are drawn uniformly from those within the limit, by counting them, not by rejection;
(2) all candidates of a stage share val images and, where the limit allows, completions; (3) candidates that are the
same network up to the place of identities count once; (4) the last stage, where a "mean over completions" is one noisy
score of one network, scores on the whole of val; (5) the potential can be `additive` (ours), below.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from components.architecture.additive import best_ends, finish, fit_additive
from components.architecture.budget import TRIES, Budget, budget_of, complete, gumbel
from components.architecture.search import (
    Candidate,
    Pool,
    PoolUpdate,
    Scored,
    World,
    best_first,
    evaluate_all,
    make_candidate,
    mean_and_error,
    required,
)
from components.architecture.space import Architecture, Space, candidates, canonical, format_architecture
from components.settings.architecture import Architecture as ArchitectureSettings
from components.streams import stream


def pc_nas(
    space: Space, world: World, settings: ArchitectureSettings, latency_ms: float, seed: int
) -> Iterator[PoolUpdate]:
    """Shrink the space layer by layer to the partial models with the most potential."""
    budget = budget_of(space, world.latency, settings, latency_ms)
    world.train_stage(0, ((),))
    pool: Pool = ((),)
    scores: tuple[Scored, ...] = ()
    halves: list[list[Scored]] = [[], []]
    for stage in range(1, len(space.layers) + 1):
        world.train_stage(stage, pool)
        fresh, dropped = extend(space, pool)
        noise = stage_noise(space, settings, seed, stage)
        completions = {c: complete(c, budget, noise, settings.completions) for c in fresh}
        dropped += [Candidate(architecture=c, dropped=budget.excess(c)) for c in fresh if not completions[c]]
        alive = [c for c in fresh if completions[c]]
        assert alive, "a network within the limit has a beginning within the limit"
        scored = score_completions(world, {c: completions[c] for c in alive}, stage)
        scores += tuple(one for c in alive for one in scored[c])
        potential = POTENTIALS[settings.potential]
        kept, outdone = best_first(potential(space, budget, scored, scores), settings.pool)
        pool = tuple(c.architecture for c in kept)
        yield PoolUpdate(
            stage=stage,
            pool=kept,
            dropped=(*outdone, *dropped),
            scores=scores,
            agreement=agreement(potential, space, budget, scored, halves),
        )


def score_completions(
    world: World, completions: Mapping[Architecture, Sequence[Architecture]], stage: int
) -> dict[Architecture, list[Scored]]:
    """Score all completions of a stage at once; return the scores by candidate."""
    ones = iter(evaluate_all(world, [a for these in completions.values() for a in these], stage))
    return {c: [next(ones) for _ in these] for c, these in completions.items()}


def agreement(
    potential: "Potential",
    space: Space,
    budget: Budget,
    scored: Mapping[Architecture, Sequence[Scored]],
    halves: Sequence[list[Scored]],
) -> float | None:
    """Return the rank correlation of the candidates' potentials by either half of the completions.

    `halves` holds the scores of the stages before, and gets those of this one.
    """
    said = []
    for half, past in enumerate(halves):
        mine = {c: ones[half::2] for c, ones in scored.items() if len(ones) > 1}
        past += [one for ones in mine.values() for one in ones]
        said.append([required(c.potential) for c in potential(space, budget, mine, past)] if mine else [])
    return rank_correlation(*said)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None for fewer than 3 pairs, or if all values of one side are equal."""
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)


def extend(space: Space, pool: Pool) -> tuple[list[Architecture], list[Candidate]]:
    """Extend every member by every block of its next layer; of candidates that are the same network, keep the first."""
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


def stage_noise(
    space: Space, settings: ArchitectureSettings, seed: int, stage: int
) -> Float[np.ndarray, "draws layers blocks"]:
    """Return the draws that all candidates of a stage share."""
    return gumbel(stream(seed, "completions", stage), settings.completions * TRIES, space)


# Potentials

Potential = Callable[[Space, Budget, Mapping[Architecture, Sequence[Scored]], Sequence[Scored]], list[Candidate]]
"""(space, budget, this stage's scores by candidate, all scores so far) -> judged candidates."""


def mean_potential(
    space: Space,
    budget: Budget,
    scored: Mapping[Architecture, Sequence[Scored]],
    scores: Sequence[Scored],
) -> list[Candidate]:
    """Return the paper's potential: the mean score of the candidate's completions, with its standard error."""
    return [make_candidate(c, ones, *mean_and_error([one.score for one in ones])) for c, ones in scored.items()]


def additive_potential(
    space: Space,
    budget: Budget,
    scored: Mapping[Architecture, Sequence[Scored]],
    scores: Sequence[Scored],
) -> list[Candidate]:
    """Return our potential: the expected score of the candidate's best completion, with its standard error.

    An additive model of all scores so far gives the expectation, and a knapsack the best completion within the limits.
    The model averages over hundreds of noisy scores instead of S, and the best completion, unlike the mean of
    completions, does not favour cheap beginnings. A whole network's potential is its own expected score.
    """
    model = fit_additive(space, scores)
    ends = best_ends(budget, model)
    return [make_candidate(c, ones, *model.predict(finish(c, budget, ends))) for c, ones in scored.items()]


POTENTIALS: dict[str, Potential] = {"mean": mean_potential, "additive": additive_potential}
