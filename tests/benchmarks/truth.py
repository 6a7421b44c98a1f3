"""Spaces on their data, and small ones of which every network was trained alone: the truth that searches are judged by.

`python -m tests.benchmarks.make_truth` trains them once and writes `truth/<space>.json`: each network's accuracies on
test, parameters and FLOPs, and the latency table, so that whoever reads the file judges by the same numbers.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from components.architecture.budget import TOLERANCE
from components.architecture.latency import LatencyTable
from components.architecture.network import build_network
from components.architecture.space import (
    Architecture,
    Space,
    candidates,
    canonical,
    parse_architecture,
    space_of,
)
from components.data.store import Classes, Split
from components.settings.architecture import Architecture as Settings
from components.settings.recipe import Recipe
from components.training.crop_flip import base_augment
from components.training.inference import predict, split_tensors
from components.training.loop import batches_of, cross_entropy, initial_state, load_state, schedule, train_steps
from components.training.metrics import accuracy
from tests.benchmarks.shift import moved, read_cifar10, read_digits

FOLDER = Path(__file__).parent / "truth"
SPLIT_SEED = 0
"""Of the one split and its distortions: the truth speaks of this data, so a search's seed must not touch it."""


# --- the data


@dataclass(frozen=True, kw_only=True)
class Data:
    """What networks are trained on, scored on and judged on."""

    train: Split
    val: Split
    test: Split

    @property
    def mean(self) -> tuple[float, ...]:
        return tuple(map(float, (self.train.images / 255).mean(axis=(0, 1, 2))))

    @property
    def std(self) -> tuple[float, ...]:
        return tuple(map(float, (self.train.images / 255).std(axis=(0, 1, 2))))


DISTORTIONS = {"Rotate": 60.0, "TranslateX": 0.25, "TranslateY": 0.25, "ShearX": 0.3}
COPIES = 5
"""Distorted images of each digit; no digit is in two splits."""


def distorted_digits() -> Data:
    """scikit-learn's digits at 16 pixels, turned, moved and sheared: 4,000 train, 1,000 val, 3,985 test images. Clean
    digits tell no two networks apart."""
    digits = read_digits()
    rng = np.random.default_rng(SPLIT_SEED)
    rows = np.split(rng.permutation(len(digits.labels)), [800, 1000])
    train, val, test = (
        Split(images=distorted(digits.images[each], rng), labels=digits.labels[each])
        for each in (np.repeat(row, COPIES) for row in rows)
    )
    return Data(train=train, val=val, test=test)


def distorted(images: UInt8[np.ndarray, "n h w c"], rng: np.random.Generator) -> UInt8[np.ndarray, "n h w c"]:
    tensor = torch.from_numpy(images)
    for name, most in DISTORTIONS.items():
        tensor = moved(name, most)(tensor, lambda bound: torch.from_numpy(rng.uniform(-bound, bound, len(images))))
    return np.ascontiguousarray(tensor.numpy())


CIFAR10_IMAGES = (8000, 2000, 10_000)
"""Train, val, test."""


def small_cifar10() -> Data:
    """CIFAR-10's first 20,000 images at half their side: 16 pixels, the mean of four."""
    images = read_cifar10(sum(CIFAR10_IMAGES))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images.labels))
    train, val, test = (small(images.at(rows)) for rows in np.split(order, np.cumsum(CIFAR10_IMAGES)[:-1]))
    return Data(train=train, val=val, test=test)


def small(split: Split) -> Split:
    n, height, width, channels = split.images.shape
    fours = split.images.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    return Split(images=fours.round().astype(np.uint8), labels=split.labels)


# --- the spaces


@dataclass(frozen=True, kw_only=True)
class Task:
    """A space on its data, and how its networks are trained."""

    data: Callable[[], Data]
    stem: int
    stem_stride: int
    stages: tuple[tuple[int, int, int], ...]
    blocks: tuple[str, ...]
    recipe: Recipe
    images: int
    """Training images processed by a network alone."""
    supernet_images: int
    """By shared weights, over all stages."""


# Without identity: of mb_k5_e2, mb_k3_e4 and identity in 6 layers, counting layers had tau 0.74, 0.70, 0.63 with the
# accuracies of the networks that fit, and two trainings 0.71, 0.64, 0.60 with each other: nothing was left to tell.
TASKS = {
    "digits": Task(
        data=distorted_digits, stem=16, stem_stride=2, stages=((16, 2, 1), (32, 3, 2)),
        blocks=("mb_k3_e4", "mb_k7_e1", "mb_k3_e1_se"),
        recipe=Recipe(batch_size=128, learning_rate=0.2, crop=1), images=16_000, supernet_images=80_000,
    ),
    # Of these no one trains every network: see architecture_choice.py.
    "digits_deep": Task(
        data=distorted_digits, stem=16, stem_stride=2, stages=((16, 2, 1), (24, 2, 1), (32, 3, 2)),
        blocks=("mb_k3_e4", "mb_k7_e1", "mb_k3_e1_se", "res_k3"),
        recipe=Recipe(batch_size=128, learning_rate=0.2, crop=1), images=16_000, supernet_images=80_000,
    ),
    "cifar10_small": Task(
        data=small_cifar10, stem=16, stem_stride=1, stages=((24, 3, 2), (48, 3, 2)),
        blocks=("mb_k3_e3", "mb_k3_e6", "mb_k5_e3", "res_k3"),
        recipe=Recipe(batch_size=128, learning_rate=0.1, flip=True, crop=2), images=40_000, supernet_images=120_000,
    ),
}  # fmt: skip


@cache
def data_of(name: str) -> Data:
    return TASKS[name].data()


def settings_of(name: str, **changes: object) -> Settings:
    """The search's settings in the task's space; a stage is half as long as the warm-up."""
    task = TASKS[name]
    layers = sum(count for _, count, _ in task.stages)
    epochs = task.supernet_images / len(data_of(name).train.labels)
    chosen: dict[str, object] = {
        "margin": 0.0, "stem": task.stem, "stem_stride": task.stem_stride, "stages": task.stages,
        "blocks": task.blocks, "warmup_epochs": 2 * epochs / (layers + 2), "stage_epochs": epochs / (layers + 2),
    }  # fmt: skip
    return Settings(**(chosen | changes))  # type: ignore[arg-type]


def truth_space(name: str) -> Space:
    images = data_of(name).train.images
    return space_of(settings_of(name), Classes(tuple("0123456789"), images.shape[1], images.shape[3]))


def networks(space: Space) -> Iterator[Architecture]:
    """Every network of the space once: of those that are one by moved identities, the canonical one."""
    for architecture in product(*(candidates(space, layer) for layer in range(len(space.layers)))):
        if canonical(space, architecture) == architecture:
            yield architecture


def train_alone(name: str, architecture: Architecture, seed: int) -> float:
    """Accuracy on test of the network trained from scratch, nothing shared."""
    task, data = TASKS[name], data_of(name)
    images, labels = split_tensors(data.train)
    network = build_network(truth_space(name), architecture, data.mean, data.std, seed)
    steps = task.images // task.recipe.batch_size
    state = train_steps(
        network, initial_state(network), images, labels,
        batches=batches_of(len(labels), task.recipe.batch_size, steps, np.random.default_rng((seed, 2))),
        rate=schedule(task.recipe, steps), first_step=0, augment=base_augment(task.recipe),
        criterion=cross_entropy(), recipe=task.recipe, rng=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    load_state(network, state)
    images, labels = split_tensors(data.test)
    return accuracy(predict(network, images), labels)


# --- the file


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a network."""

    accuracies: tuple[float, ...]
    """On test, one a seed."""
    parameters: int
    flops: int
    latency_ms: float
    """By the table."""

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A space's networks, all of them."""

    space: Space
    table: LatencyTable
    known: dict[Architecture, Known]

    def of(self, architecture: Architecture) -> Known:
        return self.known[canonical(self.space, architecture)]

    def within(self, latency_ms: float) -> list[Architecture]:
        """The networks that fit."""
        return [a for a, known in self.known.items() if known.latency_ms <= latency_ms * (1 + TOLERANCE)]

    def limits(self, shares: tuple[float, ...]) -> list[float]:
        """Latencies within which such shares of the networks are."""
        return [float(np.quantile([known.latency_ms for known in self.known.values()], share)) for share in shares]


def read_truth(name: str) -> Truth:
    """Raises FileNotFoundError with what to do if the space's networks were never trained."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is missing; train the networks: python -m tests.benchmarks.make_truth")
    record = json.loads(path.read_text(encoding="utf-8"))
    space, table = truth_space(name), LatencyTable.from_json(record["latency"])
    known = {}
    for one in record["networks"]:
        a = parse_architecture(space, one["architecture"])
        known[a] = Known(
            accuracies=tuple(one["accuracies"]), parameters=one["parameters"], flops=one["flops"],
            latency_ms=table.predict(a),
        )  # fmt: skip
    if set(known) != set(networks(space)):
        raise ValueError(f"{path.name} speaks of another space; train the networks anew: delete it and run make_truth")
    return Truth(space=space, table=table, known=known)
