"""The whole line on a preset from an empty folder: what it found, what it cost. Shared by the `line_*` benchmarks."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from tests.benchmarks.harness import ROOT, Row, markdown, spread
from tests.clones import fresh_clone, run

VARIANTS = ("searched", "baseline")


def line_rows(preset: str, seeds: Sequence[int]) -> Iterator[Row]:
    """One row a seed and variant; the split is the same for all seeds, everything else is drawn anew."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = fresh_clone(Path(name), ROOT / "flows" / "presets" / f"{preset}.yaml")
            set_seed(folder, seed)
            wall = time.perf_counter()
            done = run(folder, "-m", "flows.retrain", check=False)
            wall = time.perf_counter() - wall
            if done.returncode not in (0, 3):  # 3: the gate refused, after all the work
                sys.exit(f"the flow ended with {done.returncode}: {done.stderr[-5000:]}")
            yield from figures(folder, seed, wall, refusal(folder) if done.returncode else "published")


def refusal(folder: Path) -> str:
    """The names of the gate's checks that failed."""
    decision = json.loads((folder / "results" / "publish" / "decision.json").read_text())
    return "refused: " + ", ".join(check["name"] for check in decision["checks"] if not check["passed"])


def set_seed(folder: Path, seed: int) -> None:
    """The preset with another seed, its relative data path resolved against this checkout."""
    settings = folder / "params.yaml"
    values = yaml.safe_load(settings.read_text())
    values["seed"] = seed
    if values["data"].get("path"):
        values["data"]["path"] = os.path.relpath(ROOT / values["data"]["path"], folder)
    settings.write_text(yaml.safe_dump(values, sort_keys=False))


def figures(folder: Path, seed: int, wall: float, gate: str) -> Iterator[Row]:
    for variant in VARIANTS:
        results = folder / "results" / "evaluate" / variant
        metrics = json.loads((results / "metrics.json").read_text())
        latency = json.loads((results / "latency.json").read_text())
        yield {
            "variant": variant,
            "seed": seed,
            "test_images": metrics["images"],
            "test_accuracy": metrics["accuracy"],
            "latency_predicted_ms": latency["predicted_ms"],
            "latency_quiet_ms": latency["quiet_ms"],
            "latency_limit_ms": latency["limit_ms"],
            "gate": gate,
            "line_wall_seconds": round(wall),
        }


def line_table(rows: Sequence[Row]) -> str:
    def of(variant: str, what: str, scale: float = 1.0) -> list[float]:
        return [scale * float(str(row[what])) for row in rows if row["variant"] == variant]

    return markdown(
        ["network", "test accuracy, %", "latency predicted, ms", "measured, ms", "limit, ms", "whole line, s"],
        [
            [
                variant,
                spread(of(variant, "test_accuracy", 100), 2),
                spread(of(variant, "latency_predicted_ms"), 3),
                spread(of(variant, "latency_quiet_ms"), 3),
                spread(of(variant, "latency_limit_ms")[:1], 2),
                spread(of(variant, "line_wall_seconds"), 0),
            ]
            for variant in VARIANTS
        ],
    )
