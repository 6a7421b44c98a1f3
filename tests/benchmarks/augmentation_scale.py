"""The paper's CIFAR-10 setting on one GPU: 8 copies, 45,000 images to train on, 5,000 for rewards, 300 epochs.

    python -m tests.benchmarks.augmentation_scale --data train.parquet --test test.parquet --fraction 0.05

Needs `components`, torch, torchvision, numpy, jaxtyping, Pillow and pyarrow; no orchestrator, no tracker. The images of
an epoch go to the device once for a copy and are augmented there. The result file is written anew after every trunk.

    paper      1,296 pair logits, a pair an image, own accuracy, best of N, REINFORCE with step 0.05; Cutout always on
    matching   the presets: gradients of one model; its policy is for a second training
    copies     8 averaged copies, leave-one-out rewards, linear bandit
    null       those with a controller that never moves

Batch size, learning rate and reflected crops are ours: the paper's text that can be reached does not give them.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
import torch
from torch import nn

from components.augmentation.distribution import FactoredPairs, first_distribution
from components.augmentation.operations import Element
from components.augmentation.policy import Pairs, Policy, augment_pairs
from components.augmentation.search import PairsWorld
from components.data.images import decode, to_array
from components.data.parquet import open_parquet
from components.data.store import Split
from components.online.engine import Trunk
from components.online.world import Treatment, score_state
from components.settings.augmentation import Augmentation
from components.settings.data import Data
from components.settings.online import Online
from components.settings.recipe import Recipe
from components.training.crop_flip import compose
from components.training.loop import State
from tests.benchmarks.cifar_networks import NETWORKS, build
from tests.benchmarks.harness import RESULTS, ROOT, Row, git, hardware, markdown
from tests.benchmarks.literal_pairs import LiteralPairs, first_literal

SEEDS = (1,)
EPOCHS = 300
RECIPE = Recipe(batch_size=128, learning_rate=0.1, warmup=5 / EPOCHS, weight_decay=5.0e-4, flip=True, crop=4)
SHARES = (45, 5, 10)
"""Of train, val and test where one file holds them all."""
CUTOUT = augment_pairs((Element("Cutout", 0.5), Element("Identity")), [(0, 1)])
PAPER: dict[str, Any] = {
    "controller_lr": 0.05, "reward": "own", "broadcast": "best", "metric": "accuracy", "warmup_trunks": 0,
    "learn_until": 1.0,
}  # fmt: skip
OURS: dict[str, Any] = {"controller": "bandit", "controller_lr": 1.0, "metric": "calibrated_log_likelihood"}
GRADIENTS: dict[str, Any] = {
    "reward": "alignment", "controller": "matching", "controller_lr": 1.0, "metric": "calibrated_log_likelihood",
    "warmup_trunks": 0, "learn_until": 1.0,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "matching": GRADIENTS,
    "copies": OURS,
    "null": OURS | {"controller": "null"},
}
"""Of each method: settings of the engine."""


@dataclass(frozen=True, kw_only=True)
class WithCutout(PairsWorld):
    """The paper's pipeline: Cutout after the pair, always."""

    def treatment(self, sample: Pairs, state: State, trunk: int, copy: int) -> Treatment:
        treatment = super().treatment(sample, state, trunk, copy)
        return replace(treatment, augment=compose(treatment.augment, CUTOUT))


# --- measuring


def rows() -> Iterator[Row]:
    yield from scale_rows(arguments_of([]))


def scale_rows(chosen: argparse.Namespace) -> Iterator[Row]:
    """One row a trunk: the copies' rewards, the model that goes on, seconds; the test accuracy with the last."""
    device = torch.device(chosen.device)
    torch.backends.cudnn.benchmark = True
    train, val, test = splits(chosen)
    trunks = chosen.trunks or max(1, round(EPOCHS * chosen.fraction))
    online = Online(
        **{
            "trunks": trunks,
            "copies": chosen.copies,
            "images": len(train.labels),
            "warmup_trunks": trunks // 2,
            **METHODS[chosen.method],
        }
    )
    settings, paper = Augmentation(online=online), chosen.method == "paper"
    distribution = first_literal(online.images) if paper else first_distribution(settings)
    network = build(chosen.network, chosen.seed, device)
    world = (WithCutout if paper else PairsWorld)(
        make=lambda: network, train=train, val=val, elements=distribution.elements, settings=settings, recipe=RECIPE,
        seed=chosen.seed, devices=(device,),
    )  # fmt: skip
    started = time.perf_counter()
    for trunk in world.search_from(distribution):
        seconds, started = time.perf_counter() - started, time.perf_counter()
        last = trunk.index == trunks - 1
        yield {
            "method": chosen.method, "network": chosen.network, "seed": chosen.seed, "device": name_of(device),
            "train_images": len(train.labels), "copies": chosen.copies, "trunks": trunks,
            **rewards_of(trunk),
            "entropy_bits": round(entropy_of(distribution.at(trunk.theta)), 4),
            "test_accuracy": accuracy_on(network, trunk.state, test, online) if last else None,
            "seconds": round(seconds, 2),
        }  # fmt: skip


def entropy_of(distribution: FactoredPairs | LiteralPairs) -> float:
    return Policy(distribution.elements, distribution.joint()).entropy()


def rewards_of(trunk: Trunk[Pairs]) -> dict[str, object]:
    rewards = np.array(trunk.rewards)
    return {
        "trunk": trunk.index,
        "reward_worst": float(np.nanmin(rewards)),
        "reward_mean": float(np.nanmean(rewards)),
        "reward_best": float(np.nanmax(rewards)),
        "copies_lost": int(np.isnan(rewards).sum()),
        "val_score": trunk.score,
    }


def accuracy_on(network: nn.Module, state: State, split: Split, online: Online) -> float:
    whole = Online(trunks=1, images=online.images, metric="accuracy", warmup_trunks=0)
    return score_state(network, state, split, whole)


def name_of(device: torch.device) -> str:
    """The card's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


# --- the images


def splits(chosen: argparse.Namespace) -> tuple[Split, Split, Split]:
    """Train, val and test. Without a test file a sixth of the one file is the test split."""
    every = read(chosen.data)
    order = np.random.default_rng(0).permutation(len(every.labels))[: chosen.limit]
    if chosen.test is None:
        ends = np.cumsum(SHARES)[:2] * len(order) // sum(SHARES)
        train, val, test = (every.at(row) for row in np.split(order, ends))
        return train, val, test
    cut = len(order) * SHARES[0] // sum(SHARES[:2])
    train, val = (every.at(row) for row in np.split(order, [cut]))
    return train, val, read(chosen.test)


def read(path: Path) -> Split:
    source = open_parquet(Data(source="parquet", path=str(path), size=32, val=0.1, test=0.1))
    images, labels = [], []
    for record in source.records:
        images.append(to_array(decode(record.read()), 32, 3))
        labels.append(source.classes.index(record.label) if source.classes else int(str(record.label)))
    return Split(images=np.stack(images), labels=np.array(labels))


# --- the result file


def protocol_of(chosen: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    device = torch.device(chosen.device)
    return {
        "commit": chosen.commit or commit(),
        "hardware": f"{name_of(device)}; {hardware()}",
        "versions": {"python": python_version()} | {name: version(name) for name in ("torch", "torchvision", "numpy")},
        "seeds": [chosen.seed],
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m tests.benchmarks.augmentation_scale", *command]),
    }


def commit() -> str:
    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "components", "tests") else "")
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit("this is no git checkout; say with --commit which commit is measured") from None


def write(path: Path, protocol: dict[str, Any], measured: Sequence[Row]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"name": path.stem, "protocol": protocol, "rows": measured}, indent=1) + "\n")
    temporary.replace(path)


def table(rows: Sequence[Row]) -> str:
    """The last trunk, and the rewards on the way there."""
    last = rows[-1]
    cells = [
        last["network"], last["method"], last["device"], last["copies"], last["trunks"], last["train_images"],
        f"{rows[0]['val_score']:.4f}", f"{last['val_score']:.4f}", f"{100 * float(str(last['test_accuracy'])):.2f}",
        f"{sum(float(str(row['seconds'])) for row in rows) / len(rows):.1f}",
    ]  # fmt: skip
    header = ["network", "method", "device", "copies", "trunks", "train images", "val at first", "val at last"]
    return markdown([*header, "test accuracy (%)", "seconds a trunk"], [cells])


def arguments_of(command: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = ROOT / ".." / "shared" / "data" / "cifar10" / "train.parquet"
    parser.add_argument("--data", type=Path, default=beside, help="Parquet file or folder of shards: image, label")
    parser.add_argument("--test", type=Path, help="the test split; without it a sixth of --data")
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--method", choices=METHODS, default="copies")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--fraction", type=float, default=1.0, help=f"of the paper's {EPOCHS} trunks of one epoch")
    parser.add_argument("--trunks", type=int, help="instead of a fraction")
    parser.add_argument("--limit", type=int, help="use so many images of --data")
    parser.add_argument("--seed", type=int, default=SEEDS[0])
    parser.add_argument("--commit", help="which commit this is, where there is no git")
    parser.add_argument("--out", type=Path, default=RESULTS / "augmentation_scale.json")
    return parser.parse_args(command)


def main(command: Sequence[str]) -> int:
    chosen = arguments_of(command)
    protocol, measured = protocol_of(chosen, command), []
    for row in scale_rows(chosen):
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        measured.append(row)
        write(chosen.out, protocol, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
