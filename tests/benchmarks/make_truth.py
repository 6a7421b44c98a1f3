"""Train every network of a small space alone: `python -m tests.benchmarks.make_truth digits`.

One line a network goes into `truth/<space>.partial`, so that an interrupted run goes on where it stood. Networks come
in random order: the reliability printed on the way (the correlation of two seeds' accuracies over networks: 1 less
the share of noise in a single training) is an estimate of the whole space's. At the end the latency table is measured
and everything goes into `truth/<space>.json`.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.architecture.latency import LatencyTable, measure
from components.architecture.network import build_network
from components.architecture.space import Architecture, Space, format_architecture, parse_architecture
from components.params import Latency
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
    for place in order:
        text = format_architecture(every[place])
        if text not in done:
            lines.append(trained(name, every[place], seeds))
            with path.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(f"{len(lines)} of {len(order)}: {text} {lines[-1]['accuracies']} {reliability(lines)}", flush=True)
    return lines


def trained(name: str, architecture: Architecture, seeds: Sequence[int]) -> Line:
    start = time.process_time()
    accuracies = [round(train_alone(name, architecture, seed), 5) for seed in seeds]
    seconds = round((time.process_time() - start) / len(seeds), 2)
    return {"architecture": format_architecture(architecture), "accuracies": accuracies, "cpu_seconds": seconds}


def reliability(lines: Sequence[Line]) -> dict[str, float]:
    """How far two trainings agree, and how much of what they differ in is noise; accuracies in points."""
    both = 100 * np.array([line["accuracies"] for line in lines], dtype=float)
    if len(both) < 3 or both.shape[1] < 2:
        return {}
    first, second = both[:, 0], both[:, 1]
    return {
        "reliability": round(float(np.corrcoef(first, second)[0, 1]), 3),
        "kendall_tau_of_seeds": round(kendall(first, second).tau, 3),
        "spread_points": round(float(both.mean(axis=1).std(ddof=1)), 2),
        "noise_points": round(float(np.sqrt(np.mean((first - second) ** 2) / 2)), 2),
    }


def write(name: str, path: Path, lines: Sequence[Line]) -> None:
    """The file that benchmarks read, with its protocol."""
    space, task = truth_space(name), TASKS[name]
    protocol = protocol_of(name, SEEDS) | {
        "command": f"python -m tests.benchmarks.make_truth {name}",
        "date": datetime.now(UTC).date().isoformat(),
        "training_images": task.images,
        "cpu_seconds": round(len(SEEDS) * sum(float(str(line["cpu_seconds"])) for line in lines)),
    }
    rows = [row(space, line) for line in sorted(lines, key=lambda line: str(line["architecture"]))]
    table = measured(space)
    record = {"name": name, "protocol": protocol | reliability(lines), "networks": [], "latency": table.to_json()}
    head = json.dumps(record, indent=1)
    body = ",\n".join(json.dumps(each) for each in rows)
    path.write_text(head.replace('"networks": []', f'"networks": [\n{body}\n]') + "\n")


def row(space: Space, line: Line) -> list[object]:
    """Architecture, accuracies, parameters, FLOPs of an image."""
    text, accuracies = str(line["architecture"]), np.array(line["accuracies"]).tolist()
    blank = (0.5,) * space.channels
    network = build_network(space, parse_architecture(space, text), blank, blank).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros((1, space.channels, space.size, space.size), dtype=torch.uint8))
    return [text, *accuracies, sum(p.numel() for p in network.parameters()), counter.get_total_flops()]


def measured(space: Space) -> LatencyTable:
    """The latency table without its raw samples: the file is read, not judged."""
    table = measure(space, Latency(), np.random.default_rng(ORDER_SEED))
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
