"""What each part of a recipe for short trainings brings at equal CPU seconds, one part at a time and some together.

The network is `res_k3` in every layer of the preset cifar10's space: the plain rival that the line has to beat. It
trains on 40,000 images of CIFAR-10 and is scored on the 10,000 others. Every variant gets the same CPU seconds on one
thread: the cost of a step is measured at each resolution before the training, and gives the number of steps.

    base         today's recipe: SGD with Nesterov momentum, rate 0.1, cosine, batch 128, smoothing 0.1, crop, flip
    progressive  a quarter of the steps each at 20, 24, 28 and 32 pixels
    alternating  each image is flipped in every second epoch, instead of at random (Jordan, airbench, 2024)
    linear       a triangular learning rate
    averaged     an exponential average of the weights over the second half, every fifth step
    muon         orthogonalised momentum for convolutions (Jordan, Muon, 2024), rate .12 or .24, SGD for the rest
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.architecture.network import build_network
from components.architecture.space import space_of
from components.data.store import Classes, Split
from components.settings.space import SearchSpace
from components.streams import stream, torch_stream
from components.training.crop_flip import random_crop, random_flip
from components.training.inference import predict, split_tensors
from components.training.metrics import accuracy
from components.training.muon import orthogonalised
from tests.benchmarks.cifar_networks import MEAN, STD
from tests.benchmarks.harness import Row, markdown, spread
from tests.benchmarks.shift import read_cifar10

SEEDS = (1,)
BUDGET = 200.0
"""CPU seconds of a training."""
TRAIN, EVERY = 40_000, 50_000
SIDE = 32
SPACE = SearchSpace(
    stem=16,
    stem_stride=1,
    stages=((32, 2, 2), (64, 2, 2), (128, 2, 2)),
    blocks=("mb_k3_e3", "mb_k3_e6", "mb_k5_e3", "res_k3"),
)
SMOOTHING = 0.98
"""Decay of the averaged weights, every fifth step."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One variant."""

    rate: float = 0.1
    batch: int = 128
    label_smoothing: float = 0.1
    weight_decay: float = 5e-4
    warmup: float = 0.1
    linear: bool = False
    alternating: bool = False
    sizes: tuple[int, ...] = (SIDE,)
    averaged: bool = False
    muon: float | None = None
    """Learning rate of the convolutions; None: they have SGD too."""


BASE = Recipe()
TOGETHER = Recipe(sizes=(20, 24, 28, 32), alternating=True, linear=True, warmup=0.2, averaged=True)
VARIANTS = {
    "base": BASE,
    "rate 0.2": replace(BASE, rate=0.2),
    "rate 0.4, batch 256": replace(BASE, rate=0.4, batch=256),
    "smoothing 0": replace(BASE, label_smoothing=0.0),
    "smoothing 0.2": replace(BASE, label_smoothing=0.2),
    "decay 2e-3": replace(BASE, weight_decay=2e-3),
    "linear": replace(BASE, linear=True, warmup=0.2),
    "alternating": replace(BASE, alternating=True),
    "progressive": replace(BASE, sizes=(20, 24, 28, 32)),
    "averaged": replace(BASE, averaged=True),
    "muon 0.12": replace(BASE, muon=0.12),
    "muon 0.24": replace(BASE, muon=0.24),
    "progressive, alternating, linear, averaged": TOGETHER,
    "all of these, muon 0.12": replace(TOGETHER, muon=0.12),
}


def rows() -> Iterator[Row]:
    run = joblib.Parallel(n_jobs=2, return_as="generator", batch_size=1)
    tasks = [(name, seed) for seed in SEEDS for name in VARIANTS]
    yield from run(joblib.delayed(measured)(name, seed, BUDGET) for name, seed in tasks)


def measured(name: str, seed: int, budget: float) -> Row:
    """One training on one thread."""
    torch.set_num_threads(1)
    data = read_cifar10(EVERY)
    order = stream(0, "recipe: images").permutation(EVERY)
    train, other = data.at(order[:TRAIN]), data.at(order[TRAIN:])
    return {"variant": name, "seed": seed} | train_under(VARIANTS[name], seed, train, other, budget)


def train_under(recipe: Recipe, seed: int, train: Split, other: Split, budget: float) -> Row:
    """Accuracy on the other images, of the last and, where there are any, of the averaged weights; what was spent."""
    classes = Classes(names=tuple("0123456789"), size=SIDE, channels=3)
    network = build_network(space_of(SPACE, classes), ("res_k3",) * 6, MEAN, STD, seed)
    images, labels = split_tensors(train)
    training = Training(network, recipe, images, labels, seed)
    steps = training.steps_within(budget)
    began = time.process_time()
    training.run(steps)
    spent = time.process_time() - began
    seen, right = split_tensors(other)
    row: dict[str, object] = {
        "test_accuracy": round(accuracy(predict(network, seen), right), 4),
        "cpu_seconds": round(spent, 1),
        "epochs": round(steps * recipe.batch / len(images), 2),
        "averaged_accuracy": None,
    }
    if training.average:
        network.load_state_dict({k: v.to(network.state_dict()[k].dtype) for k, v in training.average.items()})
        row["averaged_accuracy"] = round(accuracy(predict(network, seen), right), 4)
    return row


class Training:
    """One training of a network, step by step."""

    def __init__(self, network: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor, seed: int) -> None:
        self.network, self.recipe, self.images, self.labels = network, recipe, images, labels
        self.rng, self.draws = stream(seed, "recipe: order"), torch_stream(seed, "recipe: augmentation")
        self.flipped = torch.rand(len(images), generator=self.draws) < 0.5
        self.average: dict[str, Tensor] = {}
        parameters = list(network.parameters())
        self.convolutions = [p for p in parameters if p.ndim == 4 and p.shape[1] > 1] if recipe.muon else []
        own = {id(p) for p in self.convolutions}
        decayed = [p for p in parameters if p.ndim > 1 and id(p) not in own]
        self.sgd = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": [p for p in parameters if p.ndim == 1]},
            ],
            lr=recipe.rate, momentum=0.9, nesterov=True,
        )  # fmt: skip
        self.momenta = [torch.zeros_like(p) for p in self.convolutions]

    def steps_within(self, budget: float, repeats: int = 4) -> int:
        """Steps that fit the CPU seconds, by the cost of a step at each size; the network is as it was afterwards."""
        before = {key: value.clone() for key, value in self.network.state_dict().items()}
        rows = torch.arange(self.recipe.batch)
        costs = []
        for size in self.recipe.sizes:
            self.step(rows, 0, size, 0.0)
            began = time.process_time()
            for _ in range(repeats):
                self.step(rows, 0, size, 0.0)
            costs.append((time.process_time() - began) / repeats)
        self.network.load_state_dict(before)
        self.sgd.state.clear()
        self.momenta = [torch.zeros_like(p) for p in self.convolutions]
        return max(1, int(budget / np.mean(costs)))

    def run(self, steps: int) -> None:
        index = epoch = 0
        batch, sizes = self.recipe.batch, self.recipe.sizes
        while index < steps:
            order = torch.from_numpy(self.rng.permutation(len(self.images)))
            for rows in order[: max(1, len(order) // batch) * batch].split(batch):
                self.step(rows, epoch, sizes[index * len(sizes) // steps], self.rate(index, steps))
                index += 1
                if self.recipe.averaged and index > steps / 2 and index % 5 == 0:
                    self.take_average()
                if index >= steps:
                    break
            epoch += 1

    def rate(self, index: int, steps: int) -> float:
        """Share of the peak learning rate."""
        warm = max(1, int(self.recipe.warmup * steps))
        if index < warm:
            return (index + 1) / warm
        share = (index - warm) / max(1, steps - warm)
        return 1 - share if self.recipe.linear else 0.5 * (1 + math.cos(math.pi * share))

    def step(self, rows: Tensor, epoch: int, size: int, rate: float) -> None:
        self.network.train()
        features = self.network.features(self.augmented(rows, epoch, size))
        logits = features @ self.network.classifier.weight.T
        loss = F.cross_entropy(logits, self.labels[rows], label_smoothing=self.recipe.label_smoothing)
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.sgd.param_groups:
            group["lr"] = self.recipe.rate * rate
        self.sgd.step()
        if self.recipe.muon:
            self.step_muon(self.recipe.muon * rate)

    @torch.no_grad()
    def step_muon(self, rate: float) -> None:
        """Weights keep the norm sqrt(output channels); the step is the orthogonalised Nesterov momentum."""
        for weight, momentum in zip(self.convolutions, self.momenta, strict=True):
            momentum.mul_(0.6).add_(weight.grad)
            update = weight.grad.add(momentum, alpha=0.6)
            weight.mul_(len(weight) ** 0.5 / (weight.norm() + 1e-7))
            weight.sub_(orthogonalised(update.reshape(len(weight), -1)).view_as(weight), alpha=rate)

    def augmented(self, rows: Tensor, epoch: int, size: int) -> Tensor:
        """A crop of 4 reflected pixels, a flip, and the resolution of the moment."""
        cropped = random_crop(4)(self.images[rows], self.draws)
        if self.recipe.alternating:
            flip = self.flipped[rows] ^ bool(epoch % 2)
            moved = torch.where(flip[:, None, None, None], cropped.flip(3), cropped)
        else:
            moved = random_flip(cropped, self.draws)
        if size != SIDE:
            moved = F.interpolate(moved.float(), size=(size, size), mode="bilinear", antialias=True).round().byte()
        return moved.contiguous(memory_format=torch.channels_last)

    def take_average(self) -> None:
        for key, value in self.network.state_dict().items():
            self.average.setdefault(key, value.clone().float()).lerp_(value.float(), 1 - SMOOTHING)


def table(rows: Sequence[Row]) -> str:
    lines = []
    for name in VARIANTS:
        own = [row for row in rows if row["variant"] == name]
        averaged = [row["averaged_accuracy"] for row in own if row["averaged_accuracy"] is not None]
        if own:
            lines.append(
                [
                    name,
                    percent([row["test_accuracy"] for row in own]),
                    percent(averaged) if averaged else "",
                    f"{mean(float(str(row['epochs'])) for row in own):.1f}",
                    f"{mean(float(str(row['cpu_seconds'])) for row in own):.0f}",
                ]
            )
    return markdown(["recipe", "last weights, %", "averaged weights, %", "epochs", "CPU seconds"], lines)


def percent(shares: Sequence[object]) -> str:
    return spread([100 * float(str(share)) for share in shares], 2)
