"""A table instead of a supernet: all networks of a small space with a planted truth, so that a search takes
milliseconds and its regret is known."""

import itertools
from contextlib import nullcontext
from functools import cache

import numpy as np

from components.architecture.search import Pool, PoolUpdate, World
from components.architecture.space import Architecture, Space, space_of
from components.architecture.strategies import search
from components.data.store import Classes
from components.settings.architecture import Architecture as ArchitectureSettings
from tests.shapes import unchecked

NOISY = 1.1
"""Standard deviation of the scores' noise, that of the truth being 1: Kendall tau .47, as a real supernet's."""
SIX = ("mb_k3_e3", "mb_k3_e6", "mb_k5_e3", "mb_k5_e6", "mb_k7_e3", "mb_k7_e6")


def settings(**changes: object) -> ArchitectureSettings:
    values: dict[str, object] = {
        "margin": 0.0,
        "stem": 8,
        "stem_stride": 1,
        "stages": ((8, 5, 1),),
        "blocks": SIX,
        "pool": 3,
        "completions": 2,
        "warmup_epochs": 0.0,
        "stage_epochs": 0.0,
    }
    return ArchitectureSettings(**(values | changes))


def space(chosen: ArchitectureSettings) -> Space:
    return space_of(chosen, Classes(names=("a", "b"), size=8, channels=1))


def accuracy_of(value: np.ndarray) -> np.ndarray:
    """An accuracy in 0..1 that grows with the value."""
    return 1 / (1 + np.exp(-0.5 * value))


class Toy:
    """A table world over all networks: block effects, pair interactions, dearer blocks mostly better, noisy scores."""

    def __init__(
        self, seed: int, noise: float, chosen: ArchitectureSettings, share_within: float = 0.4, pairs: float = 0.2
    ) -> None:
        rng = np.random.default_rng(seed)
        self.space = space(chosen)
        self.share_within = share_within
        layers, blocks = len(self.space.layers), len(SIX)
        costs = np.sort(rng.uniform(0.05, 0.25, (layers, blocks)), axis=1)
        effects = 0.6 * rng.normal(size=(layers, blocks)) + 6 * costs
        between = pairs * rng.normal(size=(layers, layers, blocks, blocks))
        grid = np.array(list(itertools.product(range(blocks), repeat=layers)))
        truth = sum(effects[i, grid[:, i]] for i in range(layers))
        truth += sum(between[i, j, grid[:, i], grid[:, j]] for i in range(layers) for j in range(i))
        truth = (truth - truth.mean()) / truth.std()
        self.costs = [dict(zip(SIX, row, strict=True)) for row in costs.tolist()]
        self.all = list(itertools.product(SIX, repeat=layers))
        self.truth = dict(zip(self.all, truth.tolist(), strict=True))
        noisy = truth + noise * rng.normal(size=len(truth))
        self.shown = dict(zip(self.all, accuracy_of(noisy).tolist(), strict=True))
        self.limit = float(np.quantile([self.latency(a) for a in self.all], share_within))
        self.best = max(value for a, value in self.truth.items() if self.latency(a) <= self.limit)
        self.trained: list[tuple[int, Pool]] = []
        self.asked: list[tuple[Architecture, int]] = []

    def latency(self, architecture: Architecture) -> float:
        return 0.1 + float(sum(self.costs[i][b] for i, b in enumerate(architecture)))

    def score(self, architecture: Architecture, stage: int) -> float:
        self.asked.append((architecture, stage))
        return self.shown[architecture]

    def world(self) -> World:
        return World(
            train_stage=lambda stage, pool: self.trained.append((stage, pool)), score=self.score, latency=self.latency
        )

    def regret(self, architecture: Architecture) -> float:
        """How much less accurate it is than the best within the limit, in standard deviations of the truth."""
        return self.best - self.truth[architecture]


def run(
    seed: int, noise: float = 0.7, share_within: float = 0.4, pairs: float = 0.2, **changes: object
) -> tuple[Toy, list[PoolUpdate]]:
    toy = Toy(seed, noise, settings(**changes), share_within, pairs)
    return toy, list(search(toy.space, toy.world(), settings(**changes), toy.limit, seed))


@cache
def kept(strategy: str, seed: int) -> tuple[Toy, list[PoolUpdate]]:
    """A run for whoever only looks at it; types and shapes are checked in that of seed 0."""
    with unchecked() if seed else nullcontext():
        return run(seed, strategy=strategy)


@cache
def table(seed: int, noise: float, pairs: float) -> Toy:
    return Toy(seed, noise, settings(), pairs=pairs)


def regrets(seeds: int, noise: float, pairs: float = 0.2, **changes: object) -> list[float]:
    """Of the chosen network, a seed and table each."""
    results = []
    with unchecked():
        for seed in range(seeds):
            toy = table(seed, noise, pairs)
            *_, last = search(toy.space, toy.world(), settings(**changes), toy.limit, seed)
            results.append(toy.regret(last.pool[0].architecture))
    return results
