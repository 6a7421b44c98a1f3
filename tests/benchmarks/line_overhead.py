"""What DVC, MLflow and Prefect cost on top of the computation: a preset from an empty folder, driven in several ways.

    bare   the stages as plain functions, one after the other, in one process
    dvc    `dvc repro`: a process a stage, lineage, tracking and checkpoints
    flow   `flows.retrain`: the same under Prefect, then the gate, the registry and the report
    again  `flows.retrain` once more, with nothing to compute

The CIFAR-10 preset is driven with a tenth of its images, in data, head starts, trunks and scores: what the tools do
(stages, trunks, candidates, epochs) is that of the whole preset, so its seconds are, too.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow.parquet as pq
import yaml

from tests.benchmarks.harness import Row, markdown, spread
from tests.benchmarks.shift import PARQUET
from tests.clones import fresh_clone, run

SEEDS = (1,)
BARE = """
from pathlib import Path
import torch
from flows.runtime.devices import be_deterministic
from flows.runtime.observer import Silent
from flows.checkout.settings import load_params
from flows.stages import architecture, augmentation, evaluate, latency, loss, prepare, train
params = load_params()
torch.set_num_threads(params.threads)
be_deterministic(True)
for stage in (prepare, latency):
    stage.run(params.part(stage.Reads), Silent())
for stage in (architecture, augmentation, loss):
    stage.run(params.part(stage.Reads), Silent(), Path(f"checkpoints/{stage.__name__}"))
for variant in ("searched", "baseline"):
    train.run(params.part(train.Reads), Silent(), variant, Path(f"checkpoints/train/{variant}"))
evaluate.run(params.part(evaluate.Reads), Silent())
"""
DRIVERS: dict[str, list[str]] = {
    "bare": ["-c", BARE],
    "dvc": ["-m", "dvc", "repro"],
    "flow": ["-m", "flows.retrain"],
    "again": ["-m", "flows.retrain"],
}
PRESETS = {"digits": ("bare", "dvc", "flow", "again"), "cifar10": ("bare", "flow", "again")}
TENTH = 10


def rows() -> Iterator[Row]:
    for preset, drivers in PRESETS.items():
        if preset == "cifar10" and not PARQUET.exists():
            continue
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as name:
                for driver in drivers:
                    folder = Path(name) / {"again": "flow"}.get(driver, driver)
                    if not folder.exists():
                        prepare(fresh_clone(folder), preset, seed)
                    yield {"preset": preset, "driver": driver, "seed": seed, **spent(folder, DRIVERS[driver])}


def prepare(folder: Path, preset: str, seed: int) -> None:
    """The preset's settings, and its data as a version."""
    settings = yaml.safe_load((folder / "flows" / "presets" / f"{preset}.yaml").read_text())
    settings["seed"] = seed
    if preset == "cifar10":
        shrink(settings, folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    run(folder, "-m", "flows.ingest")


def shrink(settings: dict[str, Any], folder: Path) -> None:
    """A tenth of the images everywhere."""
    whole = pq.read_table(PARQUET)
    part = folder.parent / "cifar10.parquet"
    pq.write_table(whole.slice(0, len(whole) // TENTH), part)
    settings["data"]["path"] = str(part)
    settings["architecture"]["max_images"] //= TENTH
    settings["architecture"]["score_images"] //= TENTH
    for search in ("augmentation", "loss"):
        online = settings[search]["online"]
        for images in ("images", "head_start", "score_images"):
            online[images] //= TENTH


def spent(folder: Path, command: list[str]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), children_seconds()
    done = run(folder, *command, check=False)
    if done.returncode not in (0, 3):  # 3: the gate refused, after all the work
        sys.exit(f"{command} ended with {done.returncode}: {done.stderr[-3000:]}")
    used = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": children_seconds() - cpu}
    return {what: round(seconds, 1) for what, seconds in used.items()}


def children_seconds() -> float:
    """CPU seconds of all processes that we started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(rows: Sequence[Row]) -> str:
    def of(preset: str, driver: str, what: str) -> list[float]:
        return [float(str(row[what])) for row in rows if (row["preset"], row["driver"]) == (preset, driver)]

    lines = []
    for preset, driver in dict.fromkeys((str(row["preset"]), str(row["driver"])) for row in rows):
        wall, cpu = (of(preset, driver, what) for what in ("wall_seconds", "cpu_seconds"))
        above = mean(wall) - mean(of(preset, "bare", "wall_seconds"))
        lines.append([preset, driver, spread(wall, 0), spread(cpu, 0), "" if driver == "again" else f"{above:.0f}"])
    return markdown(["preset", "driver", "wall seconds", "CPU seconds", "wall seconds above bare"], lines)
