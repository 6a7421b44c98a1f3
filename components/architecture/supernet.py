"""The supernet: every candidate block of every layer with one set of weights, its training, and scores of sub-networks.

    x  activations of the recalibration images (for batch-norm statistics)      v  those of the images that are scored

A batch trains one path (Guo et al., SPOS, ECCV 2020), whose first layers come from a member of the pool (Li et al.,
PC-NAS, CVPR 2020). A sub-network is scored with batch-norm statistics of its own.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from components.architecture.network import Stem, build_block, pool, seeded
from components.architecture.search import Pool, World
from components.architecture.space import Architecture, Space, candidates
from components.settings.architecture import Architecture as ArchitectureSettings
from components.settings.recipe import Recipe
from components.streams import stream, torch_stream
from components.training.crop_flip import base_augment
from components.training.devices import Devices, one_thread
from components.training.inference import device_of
from components.training.loop import (
    State,
    batches_of,
    collect_state,
    cross_entropy,
    initial_state,
    load_state,
    make_optimisers,
    mixed_precision,
    schedule,
    steps_in,
    take_step,
)
from components.training.metrics import accuracy, likelihood
from components.training.parallel import Parallel, WorkerDied, sequential

Images = UInt8[Tensor, "_ c h w"]
Labels = Int64[Tensor, " _"]
Activations = UInt8[Tensor, "_ _ _ _"] | Float[Tensor, "_ _ _ _"]

CHUNK = 128
"""Number of images that run through a sub-network at once; batch-norm statistics are averaged over chunks (ours)."""
GROUP = 12
"""Largest number of networks that one call of a worker scores; they share the work of their common beginning (ours)."""
SCORES: dict[str, Callable[[Tensor, Tensor], float]] = {"accuracy": accuracy, "likelihood": likelihood}
"""(logits, labels) -> score from 0 to 1."""
RECALIBRATION = "recalibration images"
"""Purpose of a random stream: streams depend on (seed, purpose, stage), never on what ran before."""


class Supernet(nn.Module):
    """All candidate blocks of all layers, of which a path uses one in each.

    Parameter names are the stand-alone network's with the block's name added: `layers.<layer>.<block>.<rest>` is its
    `layers.<layer>.<rest>`.
    """

    def __init__(self, space: Space, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.candidates = [candidates(space, layer) for layer in range(len(space.layers))]
        self.stem = Stem(space, mean, std)
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: build_block(name, layer) for name in names})
            for names, layer in zip(self.candidates, space.layers, strict=True)
        )
        self.classifier = nn.Linear(space.features, space.classes, bias=False)

    def blocks(self, path: Architecture, first: int = 0) -> list[nn.Module]:
        """Return the modules of a path that begins at layer `first`."""
        chosen = []
        for layer, name in zip(self.layers[first:], path, strict=False):
            assert isinstance(layer, nn.ModuleDict)
            chosen.append(layer[name])
        return chosen

    def features(self, images: UInt8[Tensor, "b c h w"], path: Architecture) -> Float[Tensor, "b d"]:
        """Return the classifier's input along a path."""
        x = self.stem(images)
        for block in self.blocks(path):
            x = block(x)
        return pool(x)

    def forward(self, images: UInt8[Tensor, "b c h w"], path: Architecture) -> Float[Tensor, "b k"]:
        """Return the logits of raw images along a path."""
        logits: Tensor = self.classifier(self.features(images, path))
        return logits

    def standalone(self, architecture: Architecture) -> dict[str, Tensor]:
        """Return the sub-network's weights under the stand-alone network's names."""
        state = {}
        for name, value in self.state_dict().items():
            parts = name.split(".")
            if parts[0] != "layers":
                state[name] = value
            elif parts[2] == architecture[int(parts[1])]:
                state[".".join(parts[:2] + parts[3:])] = value
        return state


def build_supernet(space: Space, mean: tuple[float, ...], std: tuple[float, ...], seed: int = 0) -> Supernet:
    """Build the supernet with fresh weights, in channels_last layout; the same seed gives the same weights."""
    with seeded(seed, "supernet weights"):
        supernet = Supernet(space, mean, std)
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # re-estimated statistics are plain averages
    return supernet.to(memory_format=torch.channels_last)


@torch.no_grad()
def run_blocks(
    blocks: Sequence[nn.Module], x: Sequence[Activations], v: Sequence[Activations]
) -> tuple[list[Tensor], list[Tensor]]:
    """Run chunks of both kinds of images through blocks, whose batch-norm statistics are re-estimated on x.

    The statistics are reset first, so that nothing of another sub-network is left in them. A block's statistics depend
    only on the blocks before it, so that this equals running the whole network in training mode.
    """
    x = list(x)
    for block in blocks:
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        block.train()
        x = [block(chunk) for chunk in x]
        block.eval()
    network = nn.Sequential(*blocks)
    return x, [network(chunk) for chunk in v]


def score_group(
    supernet: Supernet,
    recalibration: Images,
    images: Images,
    labels: Int64[Tensor, " s"],
    architectures: Sequence[Architecture],
    settled: int,
    metric: str,
    device: torch.device,
) -> list[float]:
    """Score networks that begin with the same `settled` blocks, on one thread."""
    if device != device_of(supernet):
        supernet = deepcopy(supernet).to(device)
    with one_thread():
        beginning = [supernet.stem, *supernet.blocks(architectures[0][:settled])]
        behind = run_blocks(beginning, chunks(recalibration.to(device)), chunks(images.to(device)))
        endings = [supernet.blocks(a[settled:], settled) for a in architectures]
        return [score_from(supernet, run_blocks(ending, *behind)[1], labels, metric) for ending in endings]


@torch.no_grad()
def score_from(supernet: Supernet, behind: Sequence[Tensor], labels: Int64[Tensor, " s"], metric: str) -> float:
    """Return the score of the network whose last block gave the activations `behind`."""
    return SCORES[metric](torch.cat([supernet.classifier(pool(chunk)) for chunk in behind]), labels)


class SharedWeights:
    """The world of a search on real images: it trains the supernet and scores its sub-networks on the supernet's
    device.

    Images and labels stay on their device and are moved as they are used.
    """

    def __init__(
        self,
        supernet: Supernet,
        settings: ArchitectureSettings,
        recipe: Recipe,
        train: tuple[Images, Labels],
        val: tuple[Images, Labels],
        seed: int,
    ) -> None:
        self.supernet, self.settings, self.recipe, self.seed = supernet, settings, recipe, seed
        self.layers, self.device = supernet.candidates, device_of(supernet)
        self.train_images, self.train_labels = self.subset(*train, settings.max_images or len(train[0]))
        self.val_images, self.val_labels = val
        self.optimisers = make_optimisers(supernet, initial_state(supernet), recipe)
        self.rate = schedule(recipe, self.first_step(len(self.layers) + 1))

    def subset(self, images: Images, labels: Labels, count: int) -> tuple[Images, Labels]:
        """Return at most `count` images, drawn at random."""
        if count >= len(images):
            return images, labels
        chosen = torch.from_numpy(stream(self.seed, "supernet images").permutation(len(images))[:count])
        return images[chosen], labels[chosen]

    def steps(self, stage: int) -> int:
        """Return the number of batches of a stage."""
        epochs = self.settings.warmup_epochs if stage == 0 else self.settings.stage_epochs
        return round(epochs * steps_in(len(self.train_images), self.recipe))

    def first_step(self, stage: int) -> int:
        """Return the number of batches before a stage."""
        return sum(self.steps(earlier) for earlier in range(stage))

    def train_stage(self, stage: int, members: Pool) -> None:
        """Train a stage: each batch trains a path that begins like a random member and goes on with uniform blocks.

        Other blocks do not change. Raises `Diverged` if the loss is not finite.
        """
        self.supernet.train()
        rng, draws = stream(self.seed, "supernet paths", stage), torch_stream(self.seed, "supernet augmentation", stage)
        steps, first = self.steps(stage), self.first_step(stage)
        augment = base_augment(self.recipe)
        for index, batch in enumerate(batches_of(len(self.train_images), self.recipe.batch_size, steps, rng)):
            images = augment(self.train_images[batch].to(self.device), draws)
            path = random_path(self.layers, members, rng)
            self.update(images, self.train_labels[batch].to(self.device), path, first + index)

    def update(self, images: Images, labels: Labels, path: Architecture, step: int) -> None:
        """Take one step of the optimiser along the gradient of the path."""
        criterion = cross_entropy(self.recipe.label_smoothing)
        with mixed_precision(self.device, self.recipe):
            features = self.supernet.features(images, path)
        loss = criterion(features.float(), self.supernet.classifier.weight, labels)
        take_step(self.optimisers, loss, self.rate(step), f"the supernet's loss is {loss.item()} at step {step}")

    def state(self) -> State:
        """Return weights and momentum, which with the settings are all that later stages need."""
        return collect_state(self.supernet, self.optimisers, initial_state(self.supernet))

    def restore(self, state: State) -> None:
        """Go on from a state; training then ends with the same bytes."""
        load_state(self.supernet, state)
        self.optimisers = make_optimisers(self.supernet, state, self.recipe)

    def score(self, architecture: Architecture, stage: int) -> float:
        """Return the sub-network's score by the settings' metric on the stage's slice of val."""
        return self.score_all([architecture], stage)[0]

    def score_all(
        self, architectures: Sequence[Architecture], stage: int, parallel: Parallel = sequential, devices: Devices = ()
    ) -> list[float]:
        """Score many sub-networks in groups, in parallel; the numbers are those of `score`."""
        settled, slice_ = max(0, stage - 1), self.val_slice(stage)
        shown = (self.recalibration_images(), self.val_images[slice_], self.val_labels[slice_])
        groups, places = group_by_beginning(architectures, settled), devices or (self.device,)
        calls = [
            (self.supernet, *shown, group, settled, self.settings.metric, places[index % len(places)])
            for index, group in enumerate(groups)
        ]
        scores: dict[Architecture, float] = {}
        for group, result in zip(groups, parallel(score_group, calls), strict=True):
            if isinstance(result, WorkerDied):
                raise ValueError(
                    f"a worker that scored networks was lost ({result.reason}), perhaps for want of memory; use fewer "
                    "parallel.workers, and the search goes on where it was"
                )
            scores |= zip(group, result, strict=True)
        return [scores[a] for a in architectures]

    def val_slice(self, stage: int) -> Int64[Tensor, " s"]:
        """Return the indices of the val images that a stage's networks are scored on, all in the last stage."""
        count = len(self.val_images) if stage >= len(self.layers) else self.settings.score_images
        return torch.from_numpy(
            stream(self.seed, "supernet val slice", stage).permutation(len(self.val_images))[:count]
        )

    def recalibration_images(self) -> Images:
        """Return the fixed training images, augmented as in training, that re-estimate batch-norm statistics."""
        order = stream(self.seed, RECALIBRATION).permutation(len(self.train_images))
        images = self.train_images[torch.from_numpy(order[: self.settings.recalibration_images])]
        return base_augment(self.recipe)(images, torch_stream(self.seed, RECALIBRATION, "augmentation"))

    def world(
        self, latency: Callable[[Architecture], float], parallel: Parallel = sequential, devices: Devices = ()
    ) -> World:
        score_all = partial(self.score_all, parallel=parallel, devices=devices)
        return World(train_stage=self.train_stage, score=self.score, latency=latency, score_all=score_all)


def chunks(images: Images) -> list[Images]:
    """Split into parts of CHUNK images or a little more, with no small rest, whose statistics would count as much."""
    return list(images.tensor_split(max(1, len(images) // CHUNK)))


def group_by_beginning(architectures: Sequence[Architecture], settled: int) -> list[tuple[Architecture, ...]]:
    """Group different networks that begin with the same `settled` blocks, at most GROUP together."""
    alike: dict[Architecture, list[Architecture]] = {}
    for architecture in dict.fromkeys(architectures):
        alike.setdefault(architecture[:settled], []).append(architecture)
    return [tuple(these[i : i + GROUP]) for these in alike.values() for i in range(0, len(these), GROUP)]


# The path of an update


def random_path(layers: Sequence[Sequence[str]], members: Pool, rng: np.random.Generator) -> Architecture:
    """Return a random member of the pool, completed with uniform blocks."""
    member = members[int(rng.integers(len(members)))]
    return (*member, *(names[int(rng.integers(len(names)))] for names in layers[len(member) :]))
