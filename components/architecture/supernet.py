"""The supernet: every candidate of every layer with one set of weights, and what a search asks of it.

    x  activations of the images that statistics are re-estimated on      v  of the images that are scored

Training: one path a batch (Guo et al., SPOS, ECCV 2020), its first layers from a member of the pool (Li et al.,
PC-NAS, CVPR 2020). Scoring: batch-norm statistics are those of the one sub-network that is scored.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from components import params
from components.architecture.network import Stem, build_block, pool, seeded
from components.architecture.search import Pool, World
from components.architecture.space import Architecture, Space, candidates
from components.training import (
    Diverged,
    accuracy,
    base_augment,
    batches_of,
    cross_entropy,
    device_of,
    initial_state,
    make_optimiser,
    schedule,
    steps_in,
)

Images = UInt8[Tensor, "_ c h w"]
Labels = Int64[Tensor, " _"]
Activations = UInt8[Tensor, "_ _ _ _"] | Float[Tensor, "_ _ _ _"]

CHUNK = 128
"""Images at once through a sub-network; batch-norm statistics are averaged over chunks (ours)."""
PATHS, AUGMENT, SUBSET, RECALIBRATION, SLICE = range(5)
"""What a stream of random numbers is for: streams are seeded by (seed, stage, purpose), never by what ran before."""


class Supernet(nn.Module):
    """All candidates of all layers. Parameter names are the stand-alone network's with the block's name added:
    `layers.<layer>.<block>.<rest>` is its `layers.<layer>.<rest>`."""

    def __init__(self, space: Space, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.candidates = [candidates(space, layer) for layer in range(len(space.layers))]
        self.stem = Stem(space, mean, std)
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: build_block(name, layer) for name in names})
            for names, layer in zip(self.candidates, space.layers, strict=True)
        )
        self.classifier = nn.Linear(space.features, space.classes, bias=False)

    def blocks(self, path: Architecture) -> list[nn.Module]:
        """The modules of a path, from the first layer on."""
        chosen = []
        for layer, name in zip(self.layers, path, strict=False):
            assert isinstance(layer, nn.ModuleDict)
            chosen.append(layer[name])
        return chosen

    def features(self, images: UInt8[Tensor, "b c h w"], path: Architecture) -> Float[Tensor, "b d"]:
        """What the classifier sees along a path."""
        x = self.stem(images)
        for block in self.blocks(path):
            x = block(x)
        return pool(x)

    def forward(self, images: UInt8[Tensor, "b c h w"], path: Architecture) -> Float[Tensor, "b k"]:
        """Logits of raw images along a path."""
        logits: Tensor = self.classifier(self.features(images, path))
        return logits

    def standalone(self, architecture: Architecture) -> dict[str, Tensor]:
        """The sub-network's weights under the stand-alone network's names."""
        state = {}
        for name, value in self.state_dict().items():
            parts = name.split(".")
            if parts[0] != "layers":
                state[name] = value
            elif parts[2] == architecture[int(parts[1])]:
                state[".".join(parts[:2] + parts[3:])] = value
        return state


def build_supernet(space: Space, mean: tuple[float, ...], std: tuple[float, ...], seed: int = 0) -> Supernet:
    """The supernet with fresh weights, in channels_last layout; the same seed gives the same weights."""
    with seeded(seed):
        supernet = Supernet(space, mean, std)
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # re-estimated statistics are plain averages
    return supernet.to(memory_format=torch.channels_last)


@torch.no_grad()
def through(
    blocks: Sequence[nn.Module], x: Sequence[Activations], v: Sequence[Activations]
) -> tuple[list[Tensor], list[Tensor]]:
    """Chunks of both kinds of images through blocks, whose batch-norm statistics are re-estimated on x.

    The statistics are forgotten first, so that nothing of another sub-network is left in them. A block's statistics
    depend on the blocks before it alone: block by block gives what the whole network in training mode would.
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


class SharedWeights:
    """The world of a search on real images: trains the supernet and scores its sub-networks, where the supernet is;
    images and labels stay where they are and are brought to it as they are used."""

    def __init__(
        self,
        supernet: Supernet,
        settings: params.Architecture,
        recipe: params.Recipe,
        train: tuple[Images, Labels],
        val: tuple[Images, Labels],
        seed: int,
    ) -> None:
        self.supernet, self.settings, self.recipe, self.seed = supernet, settings, recipe, seed
        self.layers, self.device = supernet.candidates, device_of(supernet)
        self.train_images, self.train_labels = self.subset(*train, settings.max_images or len(train[0]))
        self.val_images, self.val_labels = val
        self.optimiser = make_optimiser(supernet, initial_state(supernet), recipe)
        self.rate = schedule(recipe, self.first_step(len(self.layers) + 1))
        self.prefix: tuple[int, Architecture, list[Tensor], list[Tensor]] | None = None

    def rng(self, stage: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stage, purpose])

    def torch_rng(self, stage: int, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.rng(stage, purpose).integers(2**63)))

    def subset(self, images: Images, labels: Labels, count: int) -> tuple[Images, Labels]:
        """At most `count` images, drawn at random."""
        if count >= len(images):
            return images, labels
        chosen = torch.from_numpy(self.rng(0, SUBSET).permutation(len(images))[:count])
        return images[chosen], labels[chosen]

    def steps(self, stage: int) -> int:
        """Batches of a stage."""
        epochs = self.settings.warmup_epochs if stage == 0 else self.settings.stage_epochs
        return round(epochs * steps_in(len(self.train_images), self.recipe))

    def first_step(self, stage: int) -> int:
        """Batches before a stage."""
        return sum(self.steps(earlier) for earlier in range(stage))

    def train_stage(self, stage: int, members: Pool) -> None:
        """One path a batch: the first layers of a random member, then uniform. Blocks off the path do not move.

        Raises `Diverged` when the loss is not finite.
        """
        self.prefix = None
        self.supernet.train()
        rng, draws = self.rng(stage, PATHS), self.torch_rng(stage, AUGMENT)
        augment, criterion = base_augment(self.recipe), cross_entropy(self.recipe.label_smoothing)
        batches = batches_of(len(self.train_images), self.recipe.batch_size, self.steps(stage), rng)
        for step, batch in enumerate(batches, start=self.first_step(stage)):
            path = random_path(self.layers, members, rng)
            features = self.supernet.features(augment(self.train_images[batch].to(self.device), draws), path)
            loss = criterion(features, self.supernet.classifier.weight, self.train_labels[batch].to(self.device))
            if not torch.isfinite(loss):
                raise Diverged(f"the supernet's training loss is {loss.item()} at step {step}; lower the learning rate")
            self.optimiser.zero_grad(set_to_none=True)  # without a gradient, neither momentum nor decay moves a block
            loss.backward()
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(step)
            self.optimiser.step()

    def score(self, architecture: Architecture, stage: int) -> float:
        """Accuracy of the sub-network on the stage's slice of val."""
        slice_ = self.val_slice(stage)
        x, v = self.settled(architecture[: max(0, stage - 1)], stage, slice_)
        blocks = self.supernet.blocks(architecture)[max(0, stage - 1) :]
        _, v = through(blocks, x, v)
        with torch.no_grad():
            logits = torch.cat([self.supernet.classifier(pool(chunk)) for chunk in v])
        return accuracy(logits, self.val_labels[slice_])

    def val_slice(self, stage: int) -> Int64[Tensor, " s"]:
        """Indices of the val images that all networks of a stage are scored on; at the last stage, all."""
        count = len(self.val_images) if stage >= len(self.layers) else self.settings.score_images
        return torch.from_numpy(self.rng(stage, SLICE).permutation(len(self.val_images))[:count])

    def settled(
        self, prefix: Architecture, stage: int, slice_: Int64[Tensor, " s"]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Activations behind the layers that are settled, computed once for all networks that share them."""
        if self.prefix is None or self.prefix[:2] != (stage, prefix):
            self.prefix = None  # free the old ones first
            v = chunks(self.val_images[slice_].to(self.device))
            blocks = [self.supernet.stem, *self.supernet.blocks(prefix)]
            self.prefix = (stage, prefix, *through(blocks, self.recalibration_images(), v))
        return self.prefix[2], self.prefix[3]

    def recalibration_images(self) -> list[Images]:
        """The fixed slice of training images, augmented as in training, that statistics are re-estimated on."""
        order = self.rng(0, RECALIBRATION).permutation(len(self.train_images))
        images = self.train_images[torch.from_numpy(order[: self.settings.recalibration_images])].to(self.device)
        return chunks(base_augment(self.recipe)(images, self.torch_rng(0, RECALIBRATION)))

    def world(self, latency: Callable[[Architecture], float]) -> World:
        return World(train_stage=self.train_stage, score=self.score, latency=latency)


def chunks(images: Images) -> list[Images]:
    """Parts of CHUNK images or a little more; never a small rest, whose statistics would count as much."""
    return list(images.tensor_split(max(1, len(images) // CHUNK)))


def random_path(layers: Sequence[Sequence[str]], members: Pool, rng: np.random.Generator) -> Architecture:
    """A member of the pool, completed with uniform blocks."""
    member = members[int(rng.integers(len(members)))]
    return (*member, *(names[int(rng.integers(len(names)))] for names in layers[len(member) :]))
