"""Rivals that learn a distribution over paths: `enas` (Pham et al., ICML 2018, arXiv 1802.03268) and `proxyless`
(ProxylessNAS-R: Cai et al., ICLR 2019, arXiv 1812.00332).

    theta  path weights: a logit for each layer's block (p)     a    a network drawn from p_theta
    R      its score                                            A    advantage: (R - mean R) / std R
    E      expected milliseconds of a network from p_theta      T    the limit in milliseconds

    for l = 1..L-1:
        train the supernet on paths drawn from the distribution
        until n_l networks are scored:
            draw networks a from p_theta within the limit, score those not scored at this stage
            theta <- Adam(theta, mean A grad log p_theta(a) - weight grad max(0, E / T - 1))
    train once more; score the n_L best networks so far on the whole of val; choose the best

A block's probability is exp(theta) times the number of its completions within the limit, so that every draw is within
the limit and theta = 0 is uniform. `enas` trains on these draws (weight 0). `proxyless` trains on draws from
softmax(theta) alone, and the latency term keeps these to the limit: E is a sum over layers of probabilities times
measured milliseconds, so that its gradient is exact.

Unlike the papers, the controller is one logit for each block, not an LSTM, and has no entropy bonus; proxyless's
latency term is 0 below the limit. A network that is drawn twice in a stage is scored once, and its score counts for
both draws; in the next stage the shared weights have changed, and it may be scored again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from components.architecture.budget import Budget, budget_of, complete, complete_once, gumbel
from components.architecture.pc_nas import mean_potential
from components.architecture.rivals import SLICE, verify
from components.architecture.search import (
    Candidate,
    Pool,
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
from components.training.adam import Adam, advantages, informative

DRAWS = 8
"""Number of networks for a step of theta (ours)."""
PATHS = 256
"""Number of draws that the supernet's paths of a stage are taken from (ours)."""
PATIENCE = 4
"""Number of draws for each evaluation of a stage, because a distribution that has converged repeats itself (ours)."""

Logits = Float[np.ndarray, "layers blocks"]


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The distribution p_theta over networks."""

    budget: Budget
    theta: Logits
    """Logits with blocks in the space's order; -inf for a block that is not allowed in the layer."""

    def sample(self, count: int, rng: np.random.Generator) -> Pool:
        """Draw networks within the limit."""
        noise = gumbel(rng, count, self.budget.space) + self.theta
        return tuple(complete_once((), self.budget, draw) for draw in noise)

    def sample_any(self, count: int, rng: np.random.Generator) -> Pool:
        """Draw networks of any latency, by softmax(theta) in every layer."""
        blocks = self.budget.space.blocks
        drawn = (gumbel(rng, count, self.budget.space) + self.theta).argmax(axis=2)
        return tuple(tuple(blocks[index] for index in network) for network in drawn)

    def score_gradient(self, architecture: Architecture) -> Logits:
        """Return d log p_theta(a) / d theta: in every layer, the drawn block (one-hot) minus the probabilities."""
        gradient = np.zeros_like(self.theta)
        for layer, drawn in enumerate(architecture):
            left = self.budget.left(architecture[:layer])
            blocks, weights = zip(*self.budget.choices(layer, left), strict=True)
            places = [self.budget.space.blocks.index(block) for block in blocks]
            gradient[layer, places] -= softmax(np.log(weights) + self.theta[layer, places])
            gradient[layer, self.budget.space.blocks.index(drawn)] += 1
        return gradient


@dataclass(frozen=True, kw_only=True)
class LatencyTerm:
    """The latency term weight * max(0, E / T - 1), in closed form."""

    weight: float
    limit: float
    base: float
    """Milliseconds of the cheapest network."""
    extras: Logits
    """Extra milliseconds of each block beyond the layer's cheapest."""

    def expected(self, theta: Logits) -> float:
        """Return E."""
        return self.base + float((softmax(theta, axis=1) * self.extras).sum())

    def gradient(self, theta: Logits) -> Logits:
        if self.expected(theta) <= self.limit:
            return np.zeros_like(theta)
        p = softmax(theta, axis=1)
        beyond: np.ndarray = p * (self.extras - (p * self.extras).sum(axis=1, keepdims=True))
        return self.weight / self.limit * beyond


def enas(
    space: Space, world: World, settings: ArchitectureSettings, latency_ms: float, seed: int
) -> Iterator[PoolUpdate]:
    """Search by ENAS (Pham et al.): train the controller by REINFORCE and the weights on what it draws, in turns."""
    return search_with_path_weights(Paths.sample, 0.0, space, world, settings, latency_ms, seed)


def proxyless(
    space: Space, world: World, settings: ArchitectureSettings, latency_ms: float, seed: int
) -> Iterator[PoolUpdate]:
    """Search by ProxylessNAS (Cai et al.), with REINFORCE for the accuracy and the exact gradient for the latency."""
    return search_with_path_weights(Paths.sample_any, settings.latency_weight, space, world, settings, latency_ms, seed)


def search_with_path_weights(
    trained_on: Callable[[Paths, int, np.random.Generator], Pool],
    weight: float,
    space: Space,
    world: World,
    settings: ArchitectureSettings,
    latency_ms: float,
    seed: int,
) -> Iterator[PoolUpdate]:
    """Search with path weights; yield one record a stage.

    The pool is the best networks so far, each by its newest score, and so are the finalists; the dropped are the
    others.
    """
    budget = budget_of(space, world.latency, settings, latency_ms)
    term = latency_term(budget, weight)
    paths, adam = Paths(budget=budget, theta=uniform(space)), Adam(rate=settings.controller_lr)
    *planned, final = evaluations(space, settings)
    last = len(planned) + 1
    scores: tuple[Scored, ...] = ()
    pool: tuple[Candidate, ...] = ()
    newest: dict[Architecture, Scored] = {}
    world.train_stage(0, ((),))
    for stage, count in enumerate(planned, start=1):
        rng = stream(seed, "path weights", stage)
        world.train_stage(stage, trained_on(paths, PATHS, rng))
        fresh, paths, adam = learn(world, paths, adam, term, stage, count, rng)
        scores += fresh
        newest |= {canonical(space, one.architecture): one for one in fresh}
        held = {canonical(space, a) for a in (*(c.architecture for c in pool), *(one.architecture for one in fresh))}
        judged = {newest[form].architecture: [newest[form]] for form in sorted(held)}
        pool, outdone = best_first(mean_potential(space, budget, judged, scores), settings.pool)
        yield PoolUpdate(stage=stage, pool=pool, dropped=outdone, scores=scores)
    rng = stream(seed, "path weights", last)
    world.train_stage(last, trained_on(paths, PATHS, rng))
    chosen = best_scored(space, tuple(newest.values()), final)
    chosen = chosen or complete((), budget, gumbel(rng, PATIENCE * final, space), final)
    yield verify(mean_potential, world, settings, budget, scores, chosen, pool)


def learn(
    world: World, paths: Paths, adam: Adam, term: LatencyTerm, stage: int, count: int, rng: np.random.Generator
) -> tuple[tuple[Scored, ...], Paths, Adam]:
    """Make up to `count` evaluations, with a step of theta after every few draws."""
    space = paths.budget.space
    found: dict[Architecture, Scored] = {}
    for _ in range(PATIENCE * -(-count // DRAWS)):
        drawn = [(a, canonical(space, a)) for a in paths.sample(DRAWS, rng)]
        fresh: dict[Architecture, Architecture] = {}
        for a, form in drawn:
            if form not in found and len(found) + len(fresh) < count:
                fresh.setdefault(form, a)
        found |= zip(fresh, evaluate_all(world, list(fresh.values()), stage, SLICE), strict=True)
        judged = [(a, found[form].score) for a, form in drawn if form in found]
        rewards = np.array([score for _, score in judged])
        gradient = -term.gradient(paths.theta)
        if informative(rewards):
            gradients = np.array([paths.score_gradient(a) for a, _ in judged])
            gradient += np.tensordot(advantages(rewards), gradients, 1) / len(judged)
        if gradient.any():  # momentum would move theta without a signal
            adam, theta = adam.step(paths.theta, gradient)
            paths = replace(paths, theta=theta)
        if len(found) == count:
            break
    return tuple(found.values()), paths, adam


def uniform(space: Space) -> Logits:
    """Return theta = 0 for every block that is allowed in its layer, else -inf."""
    legal = [[block in candidates(space, layer) for block in space.blocks] for layer in range(len(space.layers))]
    return np.where(legal, 0.0, -np.inf)


def latency_term(budget: Budget, weight: float) -> LatencyTerm:
    latency = budget.limits[0]
    table = np.array([[extra.get(block, 0.0) for block in budget.space.blocks] for extra in latency.extras])
    return LatencyTerm(weight=weight, limit=latency.value, base=latency.base, extras=table)
