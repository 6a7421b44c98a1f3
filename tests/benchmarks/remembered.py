"""A real supernet that many searches share, so that each is judged and none pays twice.

What shared weights are depends on the seed and on how they were trained: the stages and pools so far, their *history*.
So trainings and scores are kept by history, and a search that comes to a known one goes on from there. It is charged
what they cost the first time. Searches that train uniformly share everything, PC-NAS's pools share the warm-up.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from components.architecture.search import Pool, World
from components.architecture.space import Architecture
from components.architecture.supernet import SharedWeights, chunks, random_path, run_blocks, score_from
from components.streams import stream, torch_stream
from components.training.crop_flip import base_augment
from components.training.loop import State, collect_state, initial_state, load_state, make_optimisers

History = tuple[tuple[int, Pool], ...]
"""(stage, members) of every training."""

UNIFORM: Pool = ((),)
STATISTICS_PATHS = 64
"""Random paths that statistics shared by all networks are averaged over."""


class Remembered:
    """Shared weights with a memory."""

    def __init__(self, weights: SharedWeights) -> None:
        self.weights = weights
        self.trained: dict[History, tuple[State, float]] = {(): (self.state(), 0.0)}
        self.scored: dict[tuple[History, Architecture, int], tuple[float, float]] = {}
        self.ranked: dict[tuple[History, bool], dict[Architecture, tuple[float, float]]] = {}
        self.loaded: History | None = ()
        self.history: History = ()
        self.charged = 0.0
        """CPU seconds that what was asked for since `world` would have taken alone."""
        self.paid = 0.0
        """CPU seconds that it really took."""

    def world(self, latency: Callable[[Architecture], float]) -> World:
        """For a search that begins with fresh weights."""
        self.history, self.charged, self.paid = (), 0.0, 0.0
        return World(train_stage=self.train_stage, score=self.score, latency=latency)

    def train_stage(self, stage: int, members: Pool) -> None:
        before, self.history = self.history, (*self.history, (stage, members))
        if self.history not in self.trained:
            self.load(before)
            start = time.process_time()
            self.weights.train_stage(stage, members)
            seconds = time.process_time() - start
            self.trained[self.history] = (self.state(), seconds)
            self.loaded = self.history
            self.paid += seconds
        self.charged += self.trained[self.history][1]

    def score(self, architecture: Architecture, stage: int) -> float:
        key = (self.history, architecture, stage)
        if key not in self.scored:
            self.load(self.history)
            start = time.process_time()
            score = self.weights.score(architecture, stage)
            self.scored[key] = (score, time.process_time() - start)
            self.paid += self.scored[key][1]
        score, seconds = self.scored[key]
        self.charged += seconds
        return score

    def steps(self, history: History) -> int:
        """Batches of a history."""
        return sum(self.weights.steps(stage) for stage, _ in history)

    def follow(self, history: History) -> None:
        """Come to a history, training what was never trained."""
        self.history = ()
        for stage, members in history:
            self.train_stage(stage, members)
        self.load(history)

    def state(self) -> State:
        supernet = self.weights.supernet
        return collect_state(supernet, self.weights.optimisers, initial_state(supernet))

    def load(self, history: History) -> None:
        if self.loaded != history:
            weights, (state, _) = self.weights, self.trained[history]
            load_state(weights.supernet, state)
            weights.optimisers = make_optimisers(weights.supernet, state, weights.recipe)
            self.loaded = history

    def score_all(
        self, history: History, networks: Sequence[Architecture], *, own_statistics: bool = True
    ) -> dict[Architecture, float]:
        """Every network's score on the whole of val after a history; what networks begin with is computed once.

        `own_statistics`: batch-norm statistics are re-estimated for each network; else all share those of random paths.
        """
        self.follow(history)
        known = self.ranked.setdefault((history, own_statistics), {})
        start = time.process_time()
        unknown = sorted({*networks} - {*known})
        scores = dict(self.walk_all(unknown, own_statistics)) if unknown else {}
        seconds = time.process_time() - start
        known |= {architecture: (score, seconds / len(unknown)) for architecture, score in scores.items()}
        self.paid += seconds
        self.charged += sum(known[architecture][1] for architecture in networks)
        return {architecture: known[architecture][0] for architecture in networks}

    def walk_all(self, networks: Sequence[Architecture], own_statistics: bool) -> Iterator[tuple[Architecture, float]]:
        """Scores by the weights that are loaded."""
        weights = self.weights
        if not own_statistics:
            share_statistics(weights)
            self.loaded = None  # these statistics are no history's
        x = chunks(weights.recalibration_images())
        step = run_blocks if own_statistics else forward_only
        yield from walk(weights, networks, 0, *step([weights.supernet.stem], x, chunks(weights.val_images)), step)


Step = Callable[[Sequence[nn.Module], Sequence[Tensor], Sequence[Tensor]], tuple[list[Tensor], list[Tensor]]]


def walk(
    weights: SharedWeights,
    networks: Sequence[Architecture],
    layer: int,
    x: Sequence[Tensor],
    v: Sequence[Tensor],
    step: Step,
) -> Iterator[tuple[Architecture, float]]:
    """Networks that agree up to a layer, from the activations x and v before it."""
    if layer == len(weights.layers):
        score = score_from(weights.supernet, v, weights.val_labels, weights.settings.metric)
        yield from ((architecture, score) for architecture in networks)
        return
    for _, group in groupby(networks, key=lambda architecture: architecture[layer]):
        members = list(group)
        block = weights.supernet.blocks(members[0])[layer]
        yield from walk(weights, members, layer + 1, *step([block], x, v), step)


@torch.no_grad()
def forward_only(
    blocks: Sequence[nn.Module], x: Sequence[Tensor], v: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Like `run_blocks`, with the statistics as they are."""
    network = nn.Sequential(*blocks).eval()
    return list(x), [network(chunk) for chunk in v]


@torch.no_grad()
def share_statistics(weights: SharedWeights) -> None:
    """Batch-norm statistics averaged over random paths: what a supernet has that re-estimates none."""
    supernet = weights.supernet
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    supernet.train()
    rng, draws = stream(weights.seed, "statistics"), torch_stream(weights.seed, "statistics", "augmentation")
    augment, size = base_augment(weights.recipe), weights.recipe.batch_size
    for _ in range(STATISTICS_PATHS):
        rows = torch.from_numpy(rng.permutation(len(weights.train_images))[:size])
        images = augment(weights.train_images[rows].to(weights.device), draws)
        supernet(images, random_path(weights.layers, UNIFORM, rng))
    supernet.eval()
