"""Networks of the last pool trained alone before the choice: what they reach by themselves, not with shared weights.

Briefly, on train alone, with the recipe of the final training and cross-entropy; accuracy on all of val.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from components.architecture.search import Candidate, PoolUpdate
from components.architecture.space import Architecture
from components.data.store import Split
from components.settings.recipe import Recipe
from components.settings.train import Train
from components.training.crop_flip import base_augment
from components.training.devices import CPU, Devices, one_thread
from components.training.loop import Diverged, cross_entropy, fit, load_state, predict, split_tensors
from components.training.metrics import accuracy


@dataclass(frozen=True, kw_only=True)
class TrainAlone:
    """Train a network from fresh weights and score it, on one thread: the same number on every worker."""

    make: Callable[[Architecture], nn.Module]
    train: Split
    val: Split
    recipe: Recipe
    epochs: int
    seed: int
    devices: Devices = CPU

    def __call__(self, architecture: Architecture, index: int) -> float | None:
        """Accuracy on val of the `index`-th finalist; None if its training diverged."""
        network = self.make(architecture).to(self.devices[index % len(self.devices)])
        with one_thread():
            try:
                *_, last = fit(
                    network,
                    *split_tensors(self.train),
                    settings=Train(epochs=self.epochs, recipe=self.recipe),
                    augment=base_augment(self.recipe),
                    criterion=cross_entropy(self.recipe.label_smoothing),
                    seed=self.seed,
                )
            except Diverged:
                return None
            load_state(network, last.state)
            images, labels = split_tensors(self.val)
            return accuracy(predict(network, images), labels)


Alone = Mapping[Architecture, float | None]
"""What finalists reached by themselves; None: the training diverged."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A member of the last pool."""

    candidate: Candidate
    score: float
    """With the shared weights, on all of val."""
    rank: int
    """By the search; 1 is best."""
    alone: float | None = None
    rank_alone: int | None = None
    """Among those trained alone."""


def best_alone(update: PoolUpdate, alone: Alone) -> tuple[Finalist, ...]:
    """The last pool, the choice first: by accuracy alone, then the others as the search ranks them."""
    last = {one.architecture: one.score for one in update.scores}
    members = [
        Finalist(candidate=c, score=last[c.architecture], rank=rank, alone=alone.get(c.architecture))
        for rank, c in enumerate(update.pool, start=1)
    ]
    trained = sorted((one for one in members if one.alone is not None), key=lambda one: (-(one.alone or 0.0), one.rank))
    others = (one for one in members if one.alone is None)
    return (*(replace(one, rank_alone=rank) for rank, one in enumerate(trained, start=1)), *others)
