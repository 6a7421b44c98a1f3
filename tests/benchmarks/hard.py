"""Data that is hard to learn from: wrong labels, rare classes, few images; test is clean and balanced.

    n  images   k  classes   n_c  training images of class c   C  compute of a method, in training images processed

Every method gets the same C and ends with a network trained from scratch, on train and val together: whoever has a
clean val may train on it. Under imbalance on train alone, for all methods: so small a training set, with a balanced val
in it, is no longer imbalanced. One that searches spends some of C on that (a scored image counts a third) and trains
the network with what is left; one that does not trains with all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from components.data.store import Split
from components.settings.recipe import Recipe
from components.training.crop_flip import base_augment
from components.training.inference import predict, split_tensors
from components.training.loop import (
    Criterion,
    State,
    batches_of,
    initial_state,
    load_state,
    rising_steps,
    schedule,
    train_steps,
)
from components.training.metrics import accuracy
from tests.benchmarks.shift import Net, read_cifar10, read_digits

CLASSES = 10


# --- what is hard


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is done to the training images; val and test stay balanced."""

    noise: float = 0.0
    """Share of the training labels that move to another class, evenly (symmetric noise)."""
    val_noise: float = 0.0
    """The same in val."""
    imbalance: float = 1.0
    """n_c of the rarest class over that of the commonest, geometric in between; which is which depends on the seed."""
    a_class: int | None = None
    """Training images of each class, where there are fewer than the data set gives."""
    val_trains: bool = True
    """Whether the last network trains on val too; a balanced val would mend the imbalance."""


TASKS = {
    "clean": Task(),
    "noise 20 %": Task(noise=0.2),
    "noise 40 %": Task(noise=0.4),
    "noise 20 %, val too": Task(noise=0.2, val_noise=0.2),
    "noise 40 %, val too": Task(noise=0.4, val_noise=0.4),
    "imbalance 1:10": Task(imbalance=1 / 10, val_trains=False),
    "imbalance 1:50": Task(imbalance=1 / 50, val_trains=False),
    "20 a class": Task(a_class=20),
}


@dataclass(frozen=True, kw_only=True)
class DataSet:
    read: Callable[[], Split]
    train: int
    val: int
    test: int
    """Images of each class in each split."""
    widths: tuple[int, int, int]
    strides: tuple[int, int, int]
    recipe: Recipe
    search_size: dict[str, int]
    """Size of a search that trains one model."""
    compute: int
    """C."""


DATA = {
    "digits": DataSet(
        read=read_digits, train=80, val=12, test=80, widths=(16, 32, 64), strides=(2, 2, 1),
        recipe=Recipe(batch_size=64), search_size={"head_start": 2048, "images": 1024}, compute=40_000,
    ),
    "cifar10": DataSet(
        read=read_cifar10, train=200, val=30, test=500, widths=(32, 64, 128), strides=(2, 2, 2),
        recipe=Recipe(batch_size=64), search_size={"head_start": 4096, "images": 1024}, compute=40_000,
    ),
}  # fmt: skip


@cache
def whole(data: str) -> Split:
    return DATA[data].read()


@dataclass(frozen=True, kw_only=True)
class Hard:
    """One data set, task and seed."""

    data: DataSet
    task: Task
    seed: int
    train: Split
    val: Split
    test: Split

    @property
    def final(self) -> Split:
        """What the last network trains on."""
        if not self.task.val_trains:
            return self.train
        return Split(
            images=np.concatenate([self.train.images, self.val.images]),
            labels=np.concatenate([self.train.labels, self.val.labels]),
        )


def hard_of(data: str, task: str, seed: int) -> Hard:
    """The split and the damage depend on the seed alone, so that all methods of a seed are compared on the same."""
    every, settings, chosen = whole(data), DATA[data], TASKS[task]
    rng = np.random.default_rng((seed, 1))
    parts: list[list[Int64[np.ndarray, " n"]]] = [[], [], []]
    common = rng.permutation(CLASSES)
    for kind in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(every.labels == kind))
        cuts = np.cumsum([settings.test, settings.val, settings.train])
        test, val, train, _ = np.split(rows, cuts)
        kept = len(train) * chosen.imbalance ** (common[kind] / (CLASSES - 1))
        parts[0].append(train[: min(round(kept), chosen.a_class or len(train))])
        parts[1].append(val)
        parts[2].append(test)
    train, val, test = (np.sort(np.concatenate(part)) for part in parts)
    train_labels = relabelled(every.labels[train], chosen.noise, rng)
    val_labels = relabelled(every.labels[val], chosen.val_noise, rng)
    return Hard(
        data=settings,
        task=chosen,
        seed=seed,
        train=Split(images=every.images[train], labels=train_labels),
        val=Split(images=every.images[val], labels=val_labels),
        test=Split(images=every.images[test], labels=every.labels[test]),
    )


def relabelled(labels: Int64[np.ndarray, " n"], share: float, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """Exactly this share of the labels, to another class each."""
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    moved = labels.copy()
    moved[wrong] = (labels[wrong] + rng.integers(1, CLASSES, len(wrong))) % CLASSES
    return moved


def counts_of(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " k"]:
    """n_c."""
    return np.bincount(labels, minlength=CLASSES)


# --- the network and its training


def build(hard: Hard) -> nn.Module:
    """The same first weights for all methods of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(hard.seed)
        net = Net(hard.train.images.shape[-1], hard.data.widths, hard.data.strides)
    return net.to(memory_format=torch.channels_last)


def make_of(hard: Hard) -> Callable[[], nn.Module]:
    return partial(build, hard)


def train_network(
    hard: Hard, split: Split, criterion: Criterion, images: int, beginning: Criterion | None = None
) -> State:
    """From scratch on the split for so many images, under `beginning` while the learning rate rises if there is one."""
    recipe = hard.data.recipe
    pixels, labels = split_tensors(split)
    network, steps = build(hard), max(1, images // recipe.batch_size)
    rng = np.random.default_rng((hard.seed, 2))
    return train_steps(
        network, initial_state(network), pixels, labels,
        batches=batches_of(len(labels), recipe.batch_size, steps, rng), rate=schedule(recipe, steps), first_step=0,
        augment=base_augment(recipe), criterion=criterion, beginning=beginning,
        rising=rising_steps(recipe, steps), recipe=recipe,
        rng=torch.Generator().manual_seed(hard.seed),
    )  # fmt: skip


def accuracy_of(hard: Hard, state: State, split: Split) -> float:
    network = build(hard)
    load_state(network, state)
    images, labels = split_tensors(split)
    return accuracy(predict(network, images), labels)
