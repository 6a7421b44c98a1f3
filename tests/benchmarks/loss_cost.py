"""What the loss search costs, as a multiple of one training on as many images, by the number of samples.

One training: a network under cross-entropy on all images of the search's head start and trunks, on one thread. By
probes or gradients one network trains, and B samples share its features; by copies each of B samples trains a network.
Digits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from components.training.loop import cross_entropy
from tests.benchmarks.augmentation_cost import spent
from tests.benchmarks.hard import Hard, hard_of, train_network
from tests.benchmarks.harness import Row, markdown, spread
from tests.benchmarks.loss_hard import settings_of, world_of

SEEDS = (1, 2, 3)
RUNS = {"search": (16, 64, 128), "gradients": (16, 64, 128), "copies": (2, 4, 8)}
"""B of each."""
NAMES = {"search": "linear probes of one network", "gradients": "gradients of one network", "copies": "B copies"}


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    for seed in SEEDS:
        hard = hard_of("digits", "noise 40 %", seed)
        search(hard, "search", 2)  # not counted: pages are read, kernels are chosen
        for name, counts in RUNS.items():
            online = settings_of(hard, name).online
            images = online.head_start + online.trunks * online.images
            one = spent(train_network, hard, hard.train, cross_entropy(), images)["cpu_seconds"]
            for count in counts:
                took = spent(search, hard, name, count)["cpu_seconds"]
                yield {
                    "method": name, "samples": count, "seed": seed, "cpu_seconds": round(took, 2),
                    "relative_to_one_training": round(took / one, 3),
                }  # fmt: skip


def search(hard: Hard, name: str, count: int) -> None:
    settings = settings_of(hard, name)
    for _ in world_of(hard, replace(settings, online=replace(settings.online, copies=count))).search():
        pass


def table(rows: Sequence[Row]) -> str:
    lines = []
    for name, counts in RUNS.items():
        for count in counts:
            same = [row for row in rows if (row["method"], row["samples"]) == (name, count)]
            numbers = [
                spread([float(str(row[key])) for row in same], 2) for key in ("relative_to_one_training", "cpu_seconds")
            ]
            lines.append([NAMES[name], count, *numbers])
    return markdown(["samples come from", "B", "CPU / one training", "CPU seconds"], lines)
