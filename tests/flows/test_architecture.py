"""The architecture stage: killed anywhere it goes on to the same bytes, on however many workers, for every budget."""

import csv
import json
import multiprocessing
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.architecture.costs import costs_of
from components.architecture.latency import LatencyTable
from components.architecture.parts import EMPTY, HEAD, STEM, part_name
from components.architecture.space import IDENTITY, Space, candidates, parse_architecture, space_of
from components.architecture.supernet import SharedWeights
from components.architecture.timing import REFERENCE, Entry, device_of
from components.augmentation.distribution import first_distribution, policy_of
from components.data.store import Classes, Statistics, read_classes, write_classes, write_split, write_statistics
from components.loss.family import decode
from components.settings.budget import Budget
from components.settings.parallel import Parallel
from components.settings.params import Params
from components.shipping.evaluation import onnx_logits
from components.shipping.export import read_metadata
from flows.checkout import files, paths
from flows.checkout.settings import load_params
from flows.stages import architecture, evaluate, train
from tests.clones import ROOT
from tests.flows.test_resume_online_search import Interrupted, Recorder, interrupt, kill, outputs
from tests.shapes import without_checks  # noqa: F401 - a fixture
from tests.stages import run as run_stage
from tests.stages import write_decision, write_speeds

pytestmark = pytest.mark.usefixtures("without_checks")

CHECKPOINT = Path("checkpoint")
CROSS_ENTROPY = np.zeros(8)
"""theta of four knots each."""
STRATEGIES = ["pc_nas", "evolution", "enas"]


def table(space: Space, params: Params) -> LatencyTable:
    """As if measured: some milliseconds for every part."""
    names = {STEM: 0.02, HEAD: 0.01, EMPTY: 0.0, REFERENCE: 0.1}
    for index, layer in enumerate(space.layers):
        blocks = [block for block in candidates(space, index) if block != IDENTITY]
        names |= {part_name(block, str(layer)): 0.01 * (index + 2 + 3 * place) for place, block in enumerate(blocks)}
    entries = tuple(Entry(name=n, ms=ms, spread_ms=0.0, samples=(), references=()) for n, ms in names.items())
    return LatencyTable(
        device=device_of(params.latency),
        quantize="none",
        layers=tuple(map(str, space.layers)),
        overhead_ms=0.0,
        slope=1.0,
        intercept_ms=0.0,
        entries=entries,
        wholes=(),
    )


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """What the stage reads, in a folder of its own: three classes told apart by brightness, two budgets."""
    monkeypatch.chdir(tmp_path)
    params = load_params(ROOT / "tests" / "tiny.yaml")
    chosen = replace(params.architecture, score_images=30, recalibration_images=64)
    params = replace(params, budget=Budget(latency_ms=(0.2, 0.1)), architecture=chosen)
    classes = Classes(names=("a", "b", "c"), size=8, channels=1)
    write_classes(paths.CLASSES, classes)
    write_statistics(paths.STATISTICS, Statistics(mean=(0.5,), std=(0.25,), counts={"train": {"all": 1000}}))
    rng = np.random.default_rng(0)
    for folder, count in ((paths.TRAIN, 96), (paths.VAL, 40)):
        labels = rng.integers(0, 3, count)
        pixels = rng.integers(0, 120, (count, 8, 8, 1)) + 60 * labels[:, None, None, None]
        write_split(folder, pixels.astype(np.uint8), labels)
    space = space_of(params.architecture, classes)
    files.write_json(paths.LATENCY_TABLE, table(space, params).to_json())
    return params


def with_strategy(params: Params, strategy: Any) -> Params:
    """`enas` searches for one budget."""
    budget = Budget(latency_ms=0.2) if strategy == "enas" else params.budget
    return replace(params, budget=budget, architecture=replace(params.architecture, strategy=strategy))


def rows(name: str) -> list[dict[str, str]]:
    with (paths.ARCHITECTURE / name).open() as file:
        return list(csv.DictReader(file))


# Resume


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What the shared weights were asked to do."""
    done: dict[str, list[Any]] = {"train": [], "score": []}
    really_train, really_score = SharedWeights.train_stage, SharedWeights.score_all

    def train_stage(self: SharedWeights, stage: int, members: Any) -> None:
        done["train"].append(stage)
        really_train(self, stage, members)

    def score_all(self: SharedWeights, architectures: Any, stage: int, **where: Any) -> list[float]:
        done["score"] += [(len(done["train"]), stage, a) for a in architectures]
        return really_score(self, architectures, stage, **where)

    monkeypatch.setattr(SharedWeights, "train_stage", train_stage)
    monkeypatch.setattr(SharedWeights, "score_all", score_all)
    return done


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_search_that_was_interrupted_after_any_stage_leaves_the_same_bytes_and_does_nothing_twice(
    params: Params, work: dict[str, list[Any]], strategy: str, after: int
) -> None:
    params, calm, again = with_strategy(params, strategy), Recorder(), Recorder()
    run_stage(architecture, params, calm, Path("calm"))
    expected, whole = outputs(paths.ARCHITECTURE), {name: list(calls) for name, calls in work.items()}
    for calls in work.values():
        calls.clear()
    with pytest.raises(Interrupted):
        run_stage(architecture, params, Recorder(interrupt, after), CHECKPOINT)
    run_stage(architecture, params, again, CHECKPOINT)
    assert outputs(paths.ARCHITECTURE) == expected
    assert len(expected) == 5
    assert again.seen == calm.seen
    assert work == whole


def test_a_search_that_dies_between_training_and_scoring_trains_no_stage_twice(
    params: Params, work: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stage(architecture, params, Recorder(), Path("calm"))
    expected, trained = outputs(paths.ARCHITECTURE), list(work["train"])
    work["train"].clear()
    counted = SharedWeights.score_all

    def score_all(self: SharedWeights, architectures: Any, stage: int, **where: Any) -> list[float]:
        if stage == 2:
            raise Interrupted
        return counted(self, architectures, stage, **where)

    with monkeypatch.context() as patch:
        patch.setattr(SharedWeights, "score_all", score_all)
        with pytest.raises(Interrupted):
            run_stage(architecture, params, Recorder(), CHECKPOINT)
    run_stage(architecture, params, Recorder(), CHECKPOINT)
    assert outputs(paths.ARCHITECTURE) == expected
    assert work["train"] == trained == [0, 1, 2, 3]


def killed_run(params: Params) -> None:
    torch.set_num_threads(1)
    run_stage(architecture, params, Recorder(kill, 2), CHECKPOINT)


def test_a_search_that_was_killed_goes_on_to_the_same_bytes(params: Params) -> None:
    torch.set_num_threads(1)
    process = multiprocessing.get_context("spawn").Process(target=killed_run, args=(params,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [file.name for file in CHECKPOINT.glob("*.safetensors")] == ["000002.state.safetensors"]
    run_stage(architecture, params, Recorder(), CHECKPOINT)
    after_kill = outputs(paths.ARCHITECTURE)
    run_stage(architecture, params, Recorder(), Path("calm"))
    assert outputs(paths.ARCHITECTURE) == after_kill


def test_a_checkpoint_without_its_scores_is_refused_by_name(params: Params) -> None:
    with pytest.raises(Interrupted):
        run_stage(architecture, params, Recorder(interrupt, 2), CHECKPOINT)
    (CHECKPOINT / "000001.json").unlink()
    with pytest.raises(ValueError, match="lacks scores; delete that folder"):
        run_stage(architecture, params, Recorder(), CHECKPOINT)


# Workers


def test_one_worker_and_two_give_the_same_bytes(params: Params) -> None:
    run_stage(architecture, params, Recorder(), Path("one"))
    expected = outputs(paths.ARCHITECTURE)
    run_stage(architecture, replace(params, parallel=Parallel(backend="loky", workers=2)), Recorder(), Path("two"))
    assert outputs(paths.ARCHITECTURE) == expected


# What is written


@pytest.fixture
def finished(params: Params) -> Params:
    run_stage(architecture, params, Recorder(), CHECKPOINT)
    return params


def test_each_budget_has_its_network_and_the_line_goes_on_with_the_first(finished: Params) -> None:
    found = files.read_json(paths.FOUND_ARCHITECTURE)
    assert [entry["latency_ms"] for entry in found["budgets"]] == [0.2, 0.1]
    assert {key: value for key, value in found.items() if key != "budgets"} == found["budgets"][0]
    space = space_of(finished.architecture, read_classes(paths.CLASSES))
    for entry in found["budgets"]:
        network = parse_architecture(space, entry["architecture"])
        assert entry["predicted_latency_ms"] <= entry["limit_ms"] * (1 + 1e-8)
        assert entry["limit_ms"] == pytest.approx(entry["latency_ms"] * (1 - finished.architecture.margin))
        assert {key: entry[key] for key in vars(costs_of(space, network))} == vars(costs_of(space, network))


def test_the_front_is_in_the_table_and_names_what_was_chosen(finished: Params) -> None:
    front, scores = rows("pareto.csv"), rows("scores.csv")
    accuracies = [float(row["score"]) for row in front]
    assert accuracies == sorted(set(accuracies))
    assert {row["architecture"] for row in front} <= {row["architecture"] for row in scores}
    assert "<svg" in (paths.ARCHITECTURE / "pareto.svg").read_text()
    assert {row["budget_ms"] for row in scores} == {"0.2", "0.1"}
    budgets = json.loads((paths.FOUND_ARCHITECTURE).read_text())["budgets"]
    chosen = {
        one["architecture"]: [f"{b['latency_ms']:g}" for b in budgets if b["architecture"] == one["architecture"]]
        for one in budgets
    }
    named = {row["architecture"]: row["chosen_for"].split() for row in front}
    assert named == {architecture: chosen.get(architecture, []) for architecture in named}
    assert any(named.values())


def test_a_further_budgets_variant_is_trained_exported_and_measured_beside_its_own_limit(finished: Params) -> None:
    policy = policy_of(first_distribution(finished.augmentation)).to_json()
    files.write_json(paths.FOUND_AUGMENTATION, policy)
    files.write_json(paths.FOUND_LOSS, decode(CROSS_ENTROPY).to_json())
    found = files.read_json(paths.FOUND_ARCHITECTURE)
    found["budgets"][1]["architecture"] = "res_k3|res_k3|res_k3"  # over both limits, so certainly not the first's
    files.write_json(paths.FOUND_ARCHITECTURE, found)
    write_decision(found["architecture"])
    write_speeds(space_of(finished.architecture, read_classes(paths.CLASSES)))
    params = replace(
        finished,
        train=replace(finished.train, epochs=1, variants=("searched", "baseline", "budget_2")),
    )
    run_stage(train, params, Recorder(), "budget_2", Path("checkpoint-of-train"))
    model = (paths.TRAINED / "budget_2" / "model.onnx").read_bytes()
    assert read_metadata(model)["architecture"] == "res_k3|res_k3|res_k3"
    measured_beside_its_own_limit(params, model)


def measured_beside_its_own_limit(params: Params, model: bytes) -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8), rng.integers(0, 3, 50)
    write_split(paths.TEST, images, labels)
    recorder = Recorder()
    run_stage(evaluate, params, recorder, "budget_2")
    metrics, latency = (files.read_json(paths.of_variant(path, "budget_2")) for path in (paths.METRICS, paths.MEASURED))
    right = onnx_logits(model, images).argmax(axis=1) == labels
    assert metrics["images"] == 50
    assert metrics["accuracy"] == right.mean()
    assert metrics["parity"] < 1e-3
    assert latency["limit_ms"] == params.budget.all[1] != params.budget.first
    assert latency["predicted_ms"] == pytest.approx(0.02 + 0.01 + 0.01 * (5 + 6 + 7))
    assert 0 < latency["quiet_ms"] <= latency["p99_ms"]
    ((_, logged),) = recorder.seen
    assert f"'evaluate/budget_2/limit_ms': {latency['limit_ms']}" in logged
    assert [folder.name for folder in paths.EVALUATE.iterdir()] == ["budget_2"]
