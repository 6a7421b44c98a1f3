"""What DVC, MLflow and Prefect cost on top of the computation: the digits preset from an empty folder, three ways."""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.harness import Row, markdown, spread
from tests.clones import fresh_clone, run

SEEDS = (1,)
BARE = """
from pathlib import Path
import torch
from flows import ingest
from flows.observer import Silent
from flows.settings import load_params
from flows.stages import architecture, augmentation, evaluate, latency, loss, prepare, train
params = load_params()
torch.set_num_threads(params.threads)
torch.use_deterministic_algorithms(True)
for stage in (prepare, latency):
    stage.run(params, Silent())
for stage in (architecture, augmentation, loss):
    stage.run(params, Silent(), Path(f"checkpoints/{stage.__name__}"))
for variant in ("searched", "baseline"):
    train.run(params, Silent(), variant, Path(f"checkpoints/train/{variant}"))
evaluate.run(params, Silent())
"""
DRIVERS = {
    "bare": ["-c", BARE],
    "dvc": ["-m", "dvc", "repro"],
    "flow": ["-m", "flows.retrain"],
}


def rows() -> Iterator[Row]:
    for seed in SEEDS:
        for driver, command in DRIVERS.items():
            with tempfile.TemporaryDirectory() as name:
                folder = fresh_clone(Path(name))
                settings = folder / "params.yaml"
                settings.write_text(settings.read_text().replace("seed: 1\n", f"seed: {seed}\n", 1))
                run(folder, "-m", "flows.ingest")
                wall, cpu = time.perf_counter(), children_seconds()
                done = run(folder, *command, check=False)
                if done.returncode not in (0, 3):  # 3: the gate refused, after all the work
                    sys.exit(f"{driver} ended with {done.returncode}: {done.stderr[-3000:]}")
                yield {
                    "driver": driver,
                    "seed": seed,
                    "wall_seconds": round(time.perf_counter() - wall, 1),
                    "cpu_seconds": round(children_seconds() - cpu, 1),
                }


def children_seconds() -> float:
    """CPU seconds of all processes that we started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(rows: Sequence[Row]) -> str:
    def of(driver: str, what: str) -> list[float]:
        return [float(str(row[what])) for row in rows if row["driver"] == driver]

    bare = sum(of("bare", "cpu_seconds"))
    return markdown(
        ["driver", "wall seconds", "CPU seconds", "CPU / bare"],
        [
            [
                driver,
                spread(of(driver, "wall_seconds"), 0),
                spread(of(driver, "cpu_seconds"), 0),
                f"{sum(of(driver, 'cpu_seconds')) / bare:.2f}",
            ]
            for driver in DRIVERS
        ],
    )
