"""Train every network of a small space alone: `python -m tests.benchmarks.make_truth digits`.

One line a network goes into `truth/<space>.partial`, so that an interrupted run goes on where it stood. Networks come
in random order, so that what is printed on the way estimates the whole space's: the reliability (the correlation of two
seeds' accuracies over networks: 1 less the share of noise in a single training) and what layers and FLOPs know. At the
end the latency table is measured and everything goes into `truth/<space>.json`.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.architecture.latency import LatencyTable
from components.architecture.measurement import measure
from components.architecture.network import build_network
from components.architecture.space import IDENTITY, Architecture, Space, format_architecture
from components.settings.export import Export
from components.settings.latency import Latency
from tests.benchmarks.harness import protocol_of
from tests.benchmarks.ranking import kendall
from tests.benchmarks.truth import FOLDER, TASKS, networks, train_alone, truth_space

SEEDS = (1, 2)
ORDER_SEED = 0

Line = dict[str, object]


def make(name: str, path: Path, seeds: Sequence[int] = SEEDS, count: int | None = None) -> list[Line]:
    """Train what the file at `path` lacks, up to `count` networks in all; returns every line."""
    torch.set_num_threads(1)
    space = truth_space(name)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {line["architecture"] for line in lines}
    every = list(networks(space))
    order = np.random.default_rng(ORDER_SEED).permutation(len(every))[:count]
    path.parent.mkdir(exist_ok=True)
    for architecture in (every[place] for place in order):
        if format_architecture(architecture) not in done:
            lines.append(trained(name, architecture, seeds))
            with path.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(f"{len(lines)} of {len(order)}: {lines[-1]} {figures(lines)}", flush=True)
    return lines


def trained(name: str, architecture: Architecture, seeds: Sequence[int]) -> Line:
    start = time.process_time()
    accuracies = [round(train_alone(name, architecture, seed), 5) for seed in seeds]
    seconds = round((time.process_time() - start) / len(seeds), 2)
    parameters, flops = size_of(truth_space(name), architecture)
    return {
        "architecture": format_architecture(architecture),
        "accuracies": accuracies,
        "parameters": parameters,
        "flops": flops,
        "cpu_seconds": seconds,
    }


def size_of(space: Space, architecture: Architecture) -> tuple[int, int]:
    """Parameters, and FLOPs of an image."""
    blank = (0.5,) * space.channels
    network = build_network(space, architecture, blank, blank).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros((1, space.channels, space.size, space.size), dtype=torch.uint8))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()


def figures(lines: Sequence[Line]) -> dict[str, float]:
    """How far two trainings agree, how much of what they differ in is noise (points), and what the floors know."""
    both = 100 * np.array([line["accuracies"] for line in lines], dtype=float)
    if len(both) < 3 or both.shape[1] < 2:
        return {}
    first, second, truth = both[:, 0], both[:, 1], both.mean(axis=1)
    layers = [sum(block != IDENTITY for block in str(line["architecture"]).split("|")) for line in lines]
    return {
        "reliability": round(float(np.corrcoef(first, second)[0, 1]), 3),
        "tau_of_seeds": round(kendall(first, second).tau, 3),
        "spread_points": round(float(truth.std(ddof=1)), 2),
        "noise_points": round(float(np.sqrt(np.mean((first - second) ** 2) / 2)), 2),
        "tau_of_layers": round(kendall(layers, truth).tau, 3),
        "tau_of_flops": round(kendall([float(str(line["flops"])) for line in lines], truth).tau, 3),
    }


def write(name: str, path: Path, lines: Sequence[Line]) -> None:
    """The file that benchmarks read, with its protocol."""
    protocol = protocol_of(name, SEEDS) | {
        "command": f"python -m tests.benchmarks.make_truth {name}",
        "training_images": TASKS[name].images,
        "cpu_seconds": round(len(SEEDS) * sum(float(str(line["cpu_seconds"])) for line in lines)),
    }
    ordered = sorted(lines, key=lambda line: str(line["architecture"]))
    keys = ("architecture", "accuracies", "parameters", "flops")
    body = ",\n".join(json.dumps({key: line[key] for key in keys}) for line in ordered)
    table = measured(truth_space(name)).to_json()
    record = {"name": name, "protocol": protocol | figures(lines), "networks": [], "latency": table}
    path.write_text(json.dumps(record, indent=1).replace('"networks": []', f'"networks": [\n{body}\n]') + "\n")


def measured(space: Space) -> LatencyTable:
    """The latency table without its raw samples: the file is read, not judged."""
    table = measure(space, Latency(), Export(), np.random.default_rng(ORDER_SEED))
    bare = {"samples": (), "references": ()}
    wholes = tuple(replace(whole, entry=replace(whole.entry, **bare)) for whole in table.wholes)
    return replace(table, entries=tuple(replace(entry, **bare) for entry in table.entries), wholes=wholes)


def main(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else "digits"
    partial = FOLDER / f"{name}.partial"
    write(name, FOLDER / f"{name}.json", make(name, partial))
    partial.unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
