"""The line against plain training at equal CPU seconds: the promise "never worse than plain training".

For every data set and seed, in one run: `plain_res_k3` trains first, and its CPU seconds and the latency of its float
file are the budget of all others. Accuracy is on the line's own test split; no method sees it. Everything trains on one
thread, and two seeds side by side.

    line           `dvc repro train@searched` with that budget: CPU seconds of the stages from plan to train
    plain_res_k3   the reference: residual blocks everywhere in the former preset's space, SGD, float
    plain_default  the plan's default network, the new recipe, the plan's precision
    plain_largest  likewise, the largest network of the plan's space within the budget
    random         likewise, four random networks within the budget for an eighth each; the best on val gets the rest
    optuna         likewise, TPE and Hyperband in half of the seconds, trials as long as `random`'s; the best is trained
    ray_tune       likewise, ASHA

All of it takes a day on two cores. `EQUAL_COMPUTE="cifar10 11 12 line plain_default"` measures these data sets, seeds
and methods alone; other rows of the result file stay, each with the commit that it was measured at.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
import yaml
from mlflow import MlflowClient

from components.architecture.budget import budget_of, complete, gumbel
from components.architecture.largest import largest_within
from components.architecture.latency import LatencyTable
from components.architecture.network import build_network
from components.architecture.space import Architecture, Space, default_architecture, format_architecture, space_of
from components.architecture.timing import measure_model
from components.architecture.training_cost import TrainingCosts
from components.data.store import Classes, Split, Statistics, open_split, read_classes, read_statistics
from components.planning.speeds import Speeds
from components.settings.export import Export
from components.settings.latency import Latency
from components.settings.params import Params
from components.settings.recipe import Recipe
from components.settings.space import SearchSpace
from components.settings.train import Train
from components.shipping.evaluation import onnx_logits
from components.shipping.export import export_network
from components.shipping.quantisation import convert
from components.streams import stream
from components.training.crop_flip import base_augment
from components.training.fit import fit
from components.training.inference import predict, split_tensors
from components.training.loop import cross_entropy, load_state
from components.training.metrics import accuracy
from flows.checkout import paths
from flows.checkout.files import read_json
from flows.checkout.settings import load_params
from tests.benchmarks.harness import RESULTS, ROOT, Row, git, markdown, result, spread
from tests.benchmarks.planted import PLANTS, plant
from tests.benchmarks.tuners import Found, Problem, by_optuna, by_ray_tune
from tests.clones import fresh_clone, run

NAME, REFERENCE = "equal_compute", "plain_res_k3"
SEEDS = (11, 12, 13)
THREADS = 1
"""Of every method, so that CPU seconds are spent alike."""
OVERHEAD = 0.05
"""Share of the reference's seconds that is left to the line for the starts of its stages and for its measurements."""
SIDE_BY_SIDE = 2
"""Seeds."""
RANDOM = 4
"""Networks of the random search."""
STAGES = ("plan", "latency", "architecture", "augmentation", "loss", "race", "train@searched")
"""Stages whose CPU seconds are the line's."""
SMALL = SearchSpace(stem=16, stem_stride=1, stages=((24, 2, 2), (48, 3, 2)), blocks=("res_k3",))
MIDDLING = SearchSpace(stem=16, stem_stride=1, stages=((32, 2, 2), (64, 2, 2), (128, 2, 2)), blocks=("res_k3",))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set with its preset, and the reference's space and epochs."""

    preset: str
    data: Mapping[str, Any]
    recipe: Mapping[str, Any]
    space: SearchSpace
    batch_size: int
    """Of the reference."""
    epochs: int
    plant: str = ""
    """What is planted (tests/benchmarks/planted.py)."""


PHOTOS = {"source": "folder", "path": "../shared/data/clothing"}
TASKS = {
    "digits": Task(preset="digits", data={}, recipe={}, space=SMALL, batch_size=64, epochs=150),
    "cifar10": Task(preset="cifar10", data={}, recipe={}, space=MIDDLING, batch_size=128, epochs=50),
    "clothing": Task(
        preset="cifar10",
        data=PHOTOS | {"size": 64, "val": 0.2, "test": 0.2},
        recipe={"crop": 6, "batch_size": 64, "muon": 0.06},
        space=replace(MIDDLING, stem_stride=2),
        batch_size=64,
        epochs=50,
    ),
}
TASKS |= {f"cifar10_{name}": replace(TASKS["cifar10"], plant=name) for name in PLANTS}


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Everything that one seed's methods share."""

    folder: Path
    classes: Classes
    statistics: Statistics
    train: Split
    val: Split
    test: Split
    seed: int

    def epochs(
        self, network: torch.nn.Module, epochs: int, recipe: Recipe, on: Sequence[Split]
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Train; yield the state after every epoch."""
        both = Split(
            images=np.concatenate([one.images for one in on]), labels=np.concatenate([one.labels for one in on])
        )
        images, labels = split_tensors(both)
        torch.set_num_threads(THREADS)
        for epoch in fit(
            network, images, labels, settings=Train(epochs=epochs, recipe=recipe), augment=base_augment(recipe),
            criterion=cross_entropy(recipe.label_smoothing), seed=self.seed,
        ):  # fmt: skip
            yield epoch.state

    def spent(self, epochs: int, space: Space, architecture: Architecture, recipe: Recipe, on: Sequence[Split]) -> Any:
        """Train; return the network and the CPU seconds."""
        network = build_network(space, architecture, self.statistics.mean, self.statistics.std, self.seed)
        began = time.process_time()
        *_, state = self.epochs(network, epochs, recipe, on)
        spent = time.process_time() - began
        load_state(network, state)
        return network, spent

    def file(self, network: torch.nn.Module, architecture: Architecture, export: Export) -> bytes:
        chosen = stream(self.seed, "calibration images").choice(len(self.train.labels), size=512, replace=False)
        exported = export_network(network, self.classes, format_architecture(architecture))
        return convert(exported, np.asarray(self.train.images[np.sort(chosen)]), export).SerializeToString()

    def judge(self, file: bytes) -> tuple[float, float]:
        """Return accuracy on test and milliseconds."""
        logits = onnx_logits(file, self.test.images)
        return float((logits.argmax(axis=1) == self.test.labels).mean()), measure_model(file, Latency(), 200).quiet_ms


def rows() -> Iterator[Row]:
    """Yield what is measured, and the other rows of the result file after it."""
    words = os.environ.get("EQUAL_COMPUTE", "").split()
    names = [name for name in TASKS if name in words] or list(TASKS)
    seeds = [seed for seed in SEEDS if str(seed) in words] or list(SEEDS)
    methods = [one for one in METHODS if one in words] or METHODS
    rivals = [one for one in methods if one in RIVALS]
    commit, measured = git("rev-parse", "--short", "HEAD"), set()
    for row in in_processes([(name, seed, rivals) for name in names for seed in seeds]):
        measured.add(key_of(row))
        yield {**row, "commit": commit}
    earlier = result(NAME)["rows"] if (RESULTS / f"{NAME}.json").exists() else []
    yield from (row for row in earlier if key_of(row) not in measured)


def key_of(row: Row) -> tuple[object, ...]:
    return row["data"], row["seed"], row["method"]


def in_processes(tasks: Sequence[tuple[str, int, Sequence[str]]]) -> Iterator[Row]:
    """Yield every row once it is measured."""
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(SIDE_BY_SIDE, mp_context=context) as pool:
        queue = manager.Queue()
        jobs = [pool.submit(put_rows, queue, *task) for task in tasks]
        for _ in jobs:
            yield from iter(queue.get, None)
        for job in jobs:
            job.result()  # raises what it raised


def put_rows(queue: Any, name: str, seed: int, rivals: Sequence[str]) -> None:
    try:
        for row in rows_of(name, seed, rivals):
            queue.put(row)
    finally:
        queue.put(None)


def rows_of(name: str, seed: int, rivals: Sequence[str]) -> Iterator[Row]:
    """Yield a row for the reference, for the line, whose plan the rivals take, and for each of these."""
    task = TASKS[name]
    with TemporaryDirectory() as place:
        folder = fresh_clone(Path(place), ROOT / "flows" / "presets" / f"{task.preset}.yaml")
        write_settings(folder, task, seed, {"latency_ms": 0.2, "minutes": 1.0e6})
        run(folder, "-m", "flows.ingest")
        run(folder, "-m", "dvc", "repro", "prepare")
        if task.plant:
            plant(folder, task.plant, seed)
            run(folder, "-m", "dvc", "commit", "--force", "prepare")
        with chdir(folder):
            ground, recipe = ground_of(folder, seed), load_params().train.recipe
        reference = space_of(task.space, ground.classes)
        everywhere = default_architecture(reference)
        plain = replace(recipe, batch_size=task.batch_size, muon=0.0, progressive=False, dtype="float32")
        network, budget = ground.spent(task.epochs, reference, everywhere, plain, (ground.train, ground.val))
        float_file = ground.file(network, everywhere, Export())
        right, limit = ground.judge(float_file)
        about = {"data": name, "seed": seed}
        yield row(about, REFERENCE, right, budget, limit, limit)

        write_settings(folder, task, seed, {"latency_ms": limit, "minutes": (1 - OVERHEAD) * budget / 60 / THREADS})
        run(folder, "-m", "dvc", "repro", "train@searched")
        right, ms = ground.judge((folder / paths.TRAINED / "searched" / paths.SHIPPED).read_bytes())
        yield row(about, "line", right, line_seconds(folder), ms, limit)
        with chdir(folder):
            params = load_params()
            speeds = Speeds.from_json(read_json(paths.SPEEDS))
            table = LatencyTable.from_json(read_json(paths.LATENCY_TABLE))
        for method in rivals:
            file, spent = RIVALS[method](ground, params, speeds.costs, table, limit, budget)
            right, ms = ground.judge(file)
            yield row(about, method, right, spent, ms, limit)


def row(about: Row, method: str, right: float, seconds: float, ms: float, limit: float) -> Row:
    return {
        **about,
        "method": method,
        "test_accuracy": round(right, 4),
        "cpu_seconds": round(seconds, 1),
        "latency_ms": round(ms, 5),
        "fits": ms <= limit * 1.02,
    }


def write_settings(folder: Path, task: Task, seed: int, budget: Mapping[str, Any]) -> None:
    """The preset with the task's data, another seed and budget."""
    file = folder / "params.yaml"
    values = yaml.safe_load((ROOT / "flows" / "presets" / f"{task.preset}.yaml").read_text())
    values["seed"] = seed
    values["data"] |= task.data
    if values["data"].get("path"):
        values["data"]["path"] = os.path.relpath(ROOT / values["data"]["path"], folder)
    values["train"]["recipe"] |= task.recipe
    values["threads"] = THREADS
    values["parallel"] = {"backend": "sequential", "workers": 1}
    values["budget"] = dict(budget)
    file.write_text(yaml.safe_dump(values, sort_keys=False))


def ground_of(folder: Path, seed: int) -> Ground:
    train, val, test = (open_split(folder / path) for path in (paths.TRAIN, paths.VAL, paths.TEST))
    return Ground(
        folder=folder,
        classes=read_classes(paths.CLASSES),
        statistics=read_statistics(paths.STATISTICS),
        train=train,
        val=val,
        test=test,
        seed=seed,
    )


def line_seconds(folder: Path) -> float:
    """CPU seconds of the line's stages, workers included, as each recorded when it last ran."""
    client = MlflowClient(f"sqlite:///{folder / paths.STORE / 'mlflow.db'}")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()], order_by=["start_time"])
    last = {one.info.run_name: one.data.metrics.get("usage/core_minutes", 0.0) for one in runs}
    return 60 * sum(last.get(stage, 0.0) for stage in STAGES)


def epochs_for(costs: TrainingCosts, architecture: Architecture, seconds: float, images: int) -> int:
    """Epochs that take about so many CPU seconds, by the plan's speeds."""
    each = costs.final_seconds(architecture) * THREADS
    return max(1, round(seconds / (each * images)))


def trained(
    ground: Ground, params: Params, costs: TrainingCosts, space: Space, architecture: Architecture, seconds: float
) -> tuple[bytes, float]:
    """Train on train and val with the new recipe; return the file in the plan's precision, and the seconds."""
    images = len(ground.train.labels) + len(ground.val.labels)
    epochs = epochs_for(costs, architecture, seconds, images)
    network, spent = ground.spent(epochs, space, architecture, params.train.recipe, (ground.train, ground.val))
    return ground.file(network, architecture, params.export), spent


def plain(
    choose: Callable[[Space, LatencyTable, Params, float], Architecture],
    ground: Ground, params: Params, costs: TrainingCosts, table: LatencyTable, limit: float, seconds: float,
) -> tuple[bytes, float]:  # fmt: skip
    space = space_of(params.space, ground.classes)
    return trained(ground, params, costs, space, choose(space, table, params, limit), seconds)


def choose_default(space: Space, table: LatencyTable, params: Params, limit: float) -> Architecture:
    return default_architecture(space)


def choose_largest(space: Space, table: LatencyTable, params: Params, limit: float) -> Architecture:
    return largest_within(budget_of(space, table.predict, params.architecture, limit))


def random(
    ground: Ground, params: Params, costs: TrainingCosts, table: LatencyTable, limit: float, seconds: float
) -> tuple[bytes, float]:
    """Half of the seconds for networks drawn within the budget, judged on val; the best is trained in the other."""
    space = space_of(params.space, ground.classes)
    budget = budget_of(space, table.predict, params.architecture, limit)
    drawn = complete((), budget, gumbel(stream(ground.seed, "random search"), 8 * RANDOM, space), RANDOM)
    images, labels = split_tensors(ground.val)
    scores, total = [], 0.0
    for architecture in drawn:
        epochs = epochs_for(costs, architecture, seconds / 2 / RANDOM, len(ground.train.labels))
        network, spent = ground.spent(epochs, space, architecture, params.train.recipe, (ground.train,))
        scores.append(accuracy(predict(network, images), labels))
        total += spent
    file, spent = trained(ground, params, costs, space, drawn[int(np.argmax(scores))], seconds / 2)
    return file, total + spent


def tuned(
    tuner: Callable[[Problem], Found],
    ground: Ground, params: Params, costs: TrainingCosts, table: LatencyTable, limit: float, seconds: float,
) -> tuple[bytes, float]:  # fmt: skip
    """Half of the seconds for the tuner's trials; its best network is trained in the other."""
    space = space_of(params.space, ground.classes)
    budget = budget_of(space, table.predict, params.architecture, limit)
    epochs = epochs_for(costs, default_architecture(space), seconds / 2 / RANDOM, len(ground.train.labels))
    images, labels = split_tensors(ground.val)

    def fits(architecture: Architecture) -> bool:
        return budget.spare(architecture) >= 0

    def train(architecture: Architecture) -> Iterator[tuple[float, float]]:
        make = partial(build_network, space, architecture, ground.statistics.mean, ground.statistics.std, ground.seed)
        network, judged = make(), make()
        began = time.process_time()
        for state in ground.epochs(network, epochs, params.train.recipe, (ground.train,)):
            load_state(judged, state)
            yield accuracy(predict(judged, images), labels), time.process_time() - began

    found = tuner(Problem(space=space, fits=fits, train=train, epochs=epochs, seconds=seconds / 2, seed=ground.seed))
    file, spent = trained(ground, params, costs, space, found.architecture, seconds / 2)
    return file, found.spent + spent


RIVALS: dict[str, Callable[..., tuple[bytes, float]]] = {
    "plain_default": partial(plain, choose_default),
    "plain_largest": partial(plain, choose_largest),
    "random": random,
    "optuna": partial(tuned, by_optuna),
    "ray_tune": partial(tuned, by_ray_tune),
}
METHODS = ("line", *RIVALS)


def table(rows: Sequence[Row]) -> str:
    lines = []
    for name in dict.fromkeys(row["data"] for row in rows):
        for method in (*METHODS, REFERENCE):
            own = [row for row in rows if (row["data"], row["method"]) == (name, method)]
            if own:
                columns = [
                    [scale * float(str(row[what])) for row in own]
                    for what, scale in (("test_accuracy", 100), ("cpu_seconds", 1), ("latency_ms", 1))
                ]
                shown = [spread(values, digits) for values, digits in zip(columns, (2, 0, 3), strict=True)]
                lines.append([name, method, *shown, f"{sum(bool(row['fits']) for row in own)} of {len(own)}"])
    return markdown(["data", "method", "test accuracy, %", "CPU seconds", "latency, ms", "fits"], lines)
