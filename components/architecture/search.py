"""The interface and records of architecture search that all strategies share, PC-NAS and its rivals.

    L  layers; stage l = 1..L                       o  a block, one of layer l's candidates
    P  (partial) models in the pool                 a  an architecture: a block for every layer
    S  completions scored for each candidate        y  its score on val with the shared weights, 0 to 1

A strategy is a generator of one PoolUpdate a stage. It gets the world as functions, so that it runs on a table as well
as on a supernet.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from components.architecture.space import Architecture, Space, candidates, canonical
from components.settings.architecture import Architecture as ArchitectureSettings

Pool = tuple[Architecture, ...]


@dataclass(frozen=True, kw_only=True)
class World:
    """The functions that a strategy can call."""

    train_stage: Callable[[int, Pool], None]
    """Trains the shared weights for a stage (0: warm-up), with the first layers of paths from the pool's members. If
    members are whole networks, they are the paths."""
    score: Callable[[Architecture, int], float]
    """Returns a network's score, from 0 to 1, on the stage's slice of val; the last stage's slice is all of val."""
    latency: Callable[[Architecture], float]
    """Returns a network's milliseconds, which add up over blocks."""
    score_all: Callable[[Sequence[Architecture], int], list[float]] | None = None
    """Returns many scores at once, if that is faster; the numbers are those of `score`."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One evaluation of a network."""

    stage: int
    architecture: Architecture
    score: float
    latency: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A (partial) model in the pool, or one that was dropped; numbers are None if it was never scored."""

    architecture: Architecture
    potential: float | None = None
    standard_error: float | None = None
    lowest: float | None = None
    """Lowest score of its completions (the mean alone favours cheap beginnings with expensive ends)."""
    highest: float | None = None
    """Highest score of its completions."""
    latency: float | None = None
    """Mean latency of its scored completions, in milliseconds."""
    dropped: str = ""
    """Reason why it is not in the pool; empty for members."""


@dataclass(frozen=True, kw_only=True)
class PoolUpdate:
    """The record of one stage."""

    stage: int
    pool: tuple[Candidate, ...]
    """The pool, best first; after the last stage it holds whole networks, the first of which is chosen."""
    dropped: tuple[Candidate, ...]
    scores: tuple[Scored, ...]
    """All evaluations so far."""
    agreement: float | None = None
    """PC-NAS: rank correlation of the candidates' potentials by either half of the completions. Near 0 the pool is
    chosen by chance, and more completions are needed. None for fewer than 3 candidates with two completions."""


Strategy = Callable[[Space, World, ArchitectureSettings, float, int], Iterator[PoolUpdate]]
"""(space, world, settings, latency budget in milliseconds, seed) -> records, one a stage."""


def evaluate_all(
    world: World, architectures: Sequence[Architecture], stage: int, slice_: int | None = None
) -> list[Scored]:
    """Score the networks at a stage, on the stage's slice of val or on that of stage `slice_`."""
    where = stage if slice_ is None else slice_
    scores = (
        world.score_all(architectures, where) if world.score_all else [world.score(a, where) for a in architectures]
    )
    return [
        Scored(stage=stage, architecture=a, score=score, latency=world.latency(a))
        for a, score in zip(architectures, scores, strict=True)
    ]


def best_first(judged: Sequence[Candidate], size: int) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """Split the candidates into the pool, best first, and the others, which are dropped for their rank."""
    ranked = sorted(judged, key=lambda c: (-required(c.potential), required(c.latency), c.architecture))
    outdone = tuple(
        Candidate(**(vars(c) | {"dropped": f"rank {rank} of {len(ranked)}"}))
        for rank, c in enumerate(ranked[size:], start=size + 1)
    )
    return tuple(ranked[:size]), outdone


def best_scored(space: Space, scores: Sequence[Scored], count: int) -> list[Architecture]:
    """Return up to `count` different networks with the highest scores, best first."""
    first: dict[Architecture, Architecture] = {}
    for one in sorted(scores, key=lambda one: -one.score):
        first.setdefault(canonical(space, one.architecture), one.architecture)
    return list(first.values())[:count]


def required(number: float | None) -> float:
    assert number is not None
    return number


def evaluations(space: Space, settings: ArchitectureSettings) -> list[int]:
    """Return how many networks each stage of PC-NAS scores if nothing is dropped; a rival may score as many."""
    *counts, last = candidate_counts(space, settings)
    return [*(count * settings.completions for count in counts), last]


def candidate_counts(space: Space, settings: ArchitectureSettings) -> list[int]:
    """Return how many (partial) models each stage of PC-NAS compares if nothing is dropped."""
    counts: list[int] = []
    members = 1
    for layer in range(len(space.layers)):
        counts.append(members * len(candidates(space, layer)))
        members = min(settings.pool, counts[-1])
    return counts


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def make_candidate(
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
