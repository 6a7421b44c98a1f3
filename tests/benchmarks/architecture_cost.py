"""What an architecture search costs, as a multiple of one training of its choice, by layers, candidates and pool.

Digits at 16 pixels; a third of the preset's epochs, in the search and in the training that it is compared with; no
limit binds. Shared weights are trained, and networks scored: images that re-estimate statistics and images of val go
through each. A search of L layers scores up to P C S networks a stage, in L stages.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from components.architecture.network import build_network
from components.architecture.search import World
from components.architecture.space import Architecture, Space, space_of
from components.architecture.strategies import search
from components.architecture.supernet import SharedWeights, build_supernet
from components.data.store import Classes, Split
from components.settings.architecture import Architecture as Settings
from components.settings.recipe import Recipe
from components.settings.train import Train
from components.training.crop_flip import base_augment
from components.training.fit import fit
from components.training.inference import split_tensors
from components.training.loop import cross_entropy
from tests.benchmarks.harness import Row, markdown, spread
from tests.benchmarks.shift import read_digits

SEEDS = (1, 2)
TRAIN, VAL = 1078, 359
"""Images, as the digits preset splits them."""
RECIPE = Recipe(batch_size=64, learning_rate=0.1, crop=1)
WARMUP_EPOCHS, STAGE_EPOCHS, FINAL_EPOCHS = 10 / 3, 1.0, 10
COMPLETIONS = 3
MEAN, STD = (0.3,), (0.36,)
BLOCKS = ("mb_k3_e3", "mb_k5_e3", "mb_k3_e4", "mb_k5_e2", "mb_k3_e2", "mb_k7_e2")
"""Alike in what they cost, so that more candidates do not mean dearer ones."""
LAYERS, CANDIDATES, POOL = 4, 4, 4
GROWTH = ((2, CANDIDATES, POOL), (8, CANDIDATES, POOL), (LAYERS, 2, POOL), (LAYERS, 6, POOL), (LAYERS, CANDIDATES, 1),
          (LAYERS, CANDIDATES, 8))  # fmt: skip


def rows() -> Iterator[Row]:
    """The first search and training are not counted: kernels are chosen, pages are read."""
    torch.set_num_threads(1)
    one_row(1, 2, 2, 1)
    for seed in SEEDS:
        for layers, blocks, pool in ((LAYERS, CANDIDATES, POOL), *GROWTH):
            yield one_row(seed, layers, blocks, pool)


@dataclass
class Clock:
    """CPU seconds by what they went into."""

    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, name: str, work: Callable) -> Callable:
        def run(*arguments: object) -> object:
            start = time.process_time()
            result = work(*arguments)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
            return result

        return run


def one_row(seed: int, layers: int, blocks: int, pool: int) -> Row:
    """A search and a training of what it chooses."""
    settings = settings_of(layers, blocks, pool)
    space = space_of(settings, Classes(tuple("0123456789"), 16, 1))
    train, val = (split_tensors(split) for split in digits())
    weights, clock = SharedWeights(build_supernet(space, MEAN, STD, seed), settings, RECIPE, train, val, seed), Clock()
    world = World(
        train_stage=clock.timed("train", weights.train_stage),
        score=weights.score,
        latency=lambda architecture: float(len(architecture)),
        score_all=clock.timed("score", weights.score_all),
    )
    searching = clock.timed("search", lambda: list(search(space, world, settings, 1e6, seed)))
    last = searching()[-1]
    clock.timed("final", train_final)(space, last.pool[0].architecture, seed)
    spent = clock.seconds
    return {
        "layers": layers,
        "candidates": blocks,
        "pool": pool,
        "seed": seed,
        "evaluations": len(last.scores),
        "supernet_cpu_seconds": round(spent["train"], 2),
        "scoring_cpu_seconds": round(spent["score"], 2),
        "search_cpu_seconds": round(spent["search"], 2),
        "final_training_cpu_seconds": round(spent["final"], 2),
        "relative_to_one_training": round(spent["search"] / spent["final"], 3),
    }


def settings_of(layers: int, blocks: int, pool: int) -> Settings:
    return Settings(
        stem=16, stem_stride=1, stages=((24, layers // 2, 2), (48, layers - layers // 2, 2)),
        blocks=BLOCKS[:blocks], pool=pool, completions=COMPLETIONS, score_images=VAL, warmup_epochs=WARMUP_EPOCHS,
        stage_epochs=STAGE_EPOCHS,
    )  # fmt: skip


def digits() -> tuple[Split, Split]:
    every = read_digits()
    train, val = (every.at(rows) for rows in (slice(TRAIN), slice(TRAIN, TRAIN + VAL)))
    return train, val


def train_final(space: Space, architecture: Architecture, seed: int) -> None:
    """On train and val together, as what ships is trained."""
    both = read_digits()
    images, labels = split_tensors(both)
    images, labels = images[: TRAIN + VAL], labels[: TRAIN + VAL]
    network = build_network(space, architecture, MEAN, STD, seed)
    settings = Train(epochs=FINAL_EPOCHS, recipe=RECIPE)
    for _ in fit(
        network, images, labels, settings=settings, augment=base_augment(RECIPE), criterion=cross_entropy(), seed=seed
    ):
        pass


def table(rows: Sequence[Row]) -> str:
    header = ["layers L", "candidates C", "pool P", "evaluations", "supernet, CPU s", "scoring, CPU s", "one training"]
    lines = []
    for key in dict.fromkeys((row["layers"], row["candidates"], row["pool"]) for row in rows):
        mine = [row for row in rows if (row["layers"], row["candidates"], row["pool"]) == key]

        def of(what: str, mine: Sequence[Row] = mine) -> list[float]:
            return [float(str(row[what])) for row in mine]

        cells = [spread(of(what), 1) for what in ("supernet_cpu_seconds", "scoring_cpu_seconds")]
        cells += [spread(of("final_training_cpu_seconds"), 1), spread(of("relative_to_one_training"), 2)]
        lines.append([*key, mine[0]["evaluations"], *cells])
    return markdown([*header, "search / one training"], lines)
