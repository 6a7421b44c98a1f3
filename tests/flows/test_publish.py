"""Only a model that passes every check becomes champion, and what users load is the model that was judged."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from components.data.store import Classes, write_classes, write_split
from components.export import read_metadata
from components.params import Params
from components.quantisation import QUANTIZE
from flows import files, paths, publish, settings, tracking
from flows.publish import Published, RegistryError
from tests.flows.test_tracking import SIDE, linear_model

NAMES = ("a", "b", "c", "d")
IMAGES = 40
DIGITS = settings.load_params(settings.PRESETS / "digits.yaml")


def model_of(*known: str, names: tuple[str, ...] = NAMES, side: int = SIDE) -> bytes:
    """A model that is right on the classes in `known` (and says the first class for any other image)."""
    weights = np.zeros((side**2, len(names)))
    for column, name in enumerate(names):
        if name in known:
            weights[NAMES.index(name), column] = 1
    return linear_model(weights, names, side)


PERFECT, THREE_QUARTERS = model_of(*NAMES), model_of("a", "b", "c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests: creating its tables takes seconds. Each test publishes under its own name."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture
def params(folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Params:
    """A workspace with a test split: an image of class k has its k-th pixel alight. The budget is 1 ms."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(publish, "measure_model", lambda model, settings, repeats: SimpleNamespace(p50_ms=0.5))
    write_images(SIDE)
    write_classes(paths.CLASSES, Classes(names=NAMES, size=SIDE, channels=1))
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return dataclasses.replace(
        DIGITS,
        architecture=dataclasses.replace(DIGITS.architecture, latency_ms=1.0),
        publish=dataclasses.replace(DIGITS.publish, model=name, accuracy_margin=0.01, parity=1e-3),
    )


def write_images(side: int) -> None:
    images, labels = np.zeros((IMAGES, side**2), dtype=np.uint8), np.arange(IMAGES) % len(NAMES)
    images[np.arange(IMAGES), labels] = 255
    write_split(paths.TEST, images.reshape(IMAGES, side, side, 1), labels)


def write_results(model: bytes, accuracy: float, baseline: float = 0.5, parity: float = 1e-5) -> None:
    """What train and evaluate leave behind."""
    files.write_bytes(publish.MODEL, model)
    scores = {"accuracy": accuracy, "accuracy_low": accuracy, "accuracy_high": accuracy, "parity": parity}
    files.write_json(publish.METRICS, {"searched": scores, "baseline": {"accuracy": baseline}, "images": IMAGES})
    latency = {"p50_ms": 0.5, "p99_ms": 0.6, "predicted_ms": 0.4, "clock": "wall"}
    files.write_json(paths.EVALUATE / "latency.json", {"searched": latency, "baseline": latency, "limit_ms": 1.0})


def ship(params: Params, latency_ms: float = 0.5) -> Published:
    return publish.publish(params, None, publish.gate(params, measure=lambda model, params: latency_ms))


def aliases(params: Params) -> tuple[str | None, str | None]:
    """Versions of (champion, challenger)."""
    return (
        tracking.alias_version(params.publish.model, "champion"),
        tracking.alias_version(params.publish.model, "challenger"),
    )


@pytest.mark.parametrize(
    ("baseline", "latency_ms", "parity", "refused"),
    [
        (0.5, 0.5, 1e-5, set()),
        (0.76, 1.0, 1e-3, set()),  # each exactly at its threshold
        (0.77, 0.5, 1e-5, {"accuracy"}),
        (0.5, 1.01, 1e-5, {"latency_ms"}),
        (0.5, 0.5, 2e-3, {"parity"}),
        (0.9, 2.0, 2e-3, {"accuracy", "latency_ms", "parity"}),
        (0.5, float("nan"), 1e-5, {"latency_ms"}),
    ],
)
def test_the_first_model_ships_only_if_every_check_against_baseline_and_budget_passes(
    params: Params, baseline: float, latency_ms: float, parity: float, refused: set[str]
) -> None:
    write_results(THREE_QUARTERS, 0.75, baseline=baseline, parity=parity)
    published = ship(params, latency_ms)
    assert {check.name for check in published.report.checks if not check.passed} == refused
    assert published.outcome == ("refused" if refused else "published")
    assert aliases(params) == (None if refused else "1", "1")


@pytest.mark.parametrize(
    ("searched", "refused"),
    [
        ({"float_accuracy": 0.75}, set()),
        ({"float_accuracy": 0.76}, set()),  # exactly at its threshold
        ({"float_accuracy": 0.77}, {"quantisation"}),
        ({}, {"quantisation"}),
    ],
)
def test_a_quantised_file_ships_only_if_it_is_as_accurate_as_its_float_file(
    params: Params, searched: dict[str, float], refused: set[str]
) -> None:
    model = onnx.load_from_string(THREE_QUARTERS)
    onnx.helper.set_model_props(model, read_metadata(THREE_QUARTERS) | {QUANTIZE: "int8"})
    write_results(model.SerializeToString(), 0.75)
    edit_metrics(**searched)
    report = publish.gate(params, measure=lambda model, params: 0.5)
    assert {check.name for check in report.checks} == {"accuracy", "latency_ms", "parity", "quantisation"}
    assert {check.name for check in report.checks if not check.passed} == refused


def test_the_next_model_must_not_be_worse_than_the_champion_on_the_same_images(params: Params) -> None:
    write_results(PERFECT, 1.0)
    assert ship(params).outcome == "published"
    write_results(THREE_QUARTERS, 0.75, baseline=0.1)
    worse = ship(params)
    assert (worse.outcome, worse.report.champion) == ("refused", "1")
    assert worse.report.against == "champion version 1 on 40 of 40 test images"
    assert aliases(params) == ("1", "2")
    lenient = dataclasses.replace(params, publish=dataclasses.replace(params.publish, accuracy_margin=0.3))
    assert ship(lenient).outcome == "published"
    assert aliases(params) == ("2", "2")


def test_publishing_the_champion_again_changes_nothing_and_says_so(params: Params) -> None:
    write_results(PERFECT, 1.0)
    ship(params)
    again = ship(params, latency_ms=99.0)
    assert (again.outcome, again.version, again.report.passed) == ("already champion", "1", True)
    assert "already champion" in publish.summary(params, again)
    assert len(tracking.connect().search_model_versions(f"name = '{params.publish.model}'")) == 1


def test_a_refused_model_that_is_judged_again_keeps_its_version(params: Params) -> None:
    write_results(PERFECT, 1.0)
    assert ship(params, latency_ms=2.0).outcome == "refused"
    assert ship(params, latency_ms=0.9).outcome == "published"
    assert aliases(params) == ("1", "1")


def test_with_another_class_list_champion_and_model_are_compared_on_the_shared_classes(params: Params) -> None:
    write_results(model_of("a", "b", names=("b", "a")), 0.5)
    ship(params)
    write_results(model_of("a", "b"), 0.5)
    report = publish.gate(params, measure=lambda model, params: 0.5)
    assert report.against == "champion version 1 on 20 of 40 test images"
    assert (report.checks[0].value, report.checks[0].threshold) == (1.0, 0.99)


def test_a_champion_for_images_of_another_size_is_named_and_not_replaced(params: Params) -> None:
    write_images(5)
    write_results(model_of(*NAMES, side=5), 1.0)
    assert ship(params).outcome == "published"
    write_images(4)
    with pytest.raises(ValueError, match=r"model\.onnx takes images of 5x5x1, data/prepared/test has 4x4x1"):
        publish.gate(dataclasses.replace(params, publish=dataclasses.replace(params.publish, model="other")))
    write_results(PERFECT, 1.0)
    with pytest.raises(ValueError, match="champion version 1 takes images of 5x5x1, the data has 4x4x1"):
        publish.gate(params)
    assert aliases(params) == ("1", "1")


def test_the_decision_is_on_the_run_and_on_the_model_version(params: Params) -> None:
    write_results(PERFECT, 1.0)
    with tracking.parent_run("retrain", {}) as parent:
        report = publish.gate(params, measure=lambda model, params: 2.0)
        published = publish.publish(params, parent, report)
    client = tracking.connect()
    artifact = Path(client.download_artifacts(str(parent), "gate.json"))
    decided = json.loads(artifact.read_text())
    assert [(check["name"], check["passed"]) for check in decided["checks"]] == [
        ("accuracy", True),
        ("latency_ms", False),
        ("parity", True),
    ]
    assert decided["passed"] is False
    tags = client.get_model_version(params.publish.model, published.version).tags
    assert (tags["gate"], tags["gate.against"]) == ("refused", "the baseline")
    assert tags["gate.latency_ms"] == "refused: latency_ms 2, at most 1"
    assert client.get_run(str(parent)).data.tags["model.version"] == published.version


def test_the_version_belongs_to_the_run_that_wrote_the_file(params: Params) -> None:
    write_results(PERFECT, 1.0)
    train = tracking.StageRun(
        "train@searched", None, {"dvc.out.results/train/searched/model.onnx": tracking.md5_of(PERFECT)}
    )
    train.end("FINISHED")
    number = ship(params).version
    assert tracking.connect().get_model_version(params.publish.model, number).run_id == train.run_id


@pytest.mark.parametrize("broken", [THREE_QUARTERS, None])
def test_a_registry_that_gives_back_another_model_moves_no_champion(
    params: Params, monkeypatch: pytest.MonkeyPatch, broken: bytes | None
) -> None:
    write_results(PERFECT, 1.0)
    report = publish.gate(params)
    other = tracking.Shipped(version="1", md5=report.md5, model=broken) if broken else None
    monkeypatch.setattr(tracking, "load_by_alias", lambda name, alias: other)
    with pytest.raises(RegistryError, match="another model"):
        publish.publish(params, None, report)
    assert aliases(params)[0] is None


def edit_metrics(**searched: Any) -> None:
    metrics = files.read_json(publish.METRICS)
    metrics["searched"] |= searched
    files.write_json(publish.METRICS, metrics)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (publish.MODEL.unlink, "model.onnx is missing; run `dvc repro` first"),
        (publish.METRICS.unlink, "metrics.json is missing; run `dvc repro` first"),
        ((paths.TEST / "labels.npy").unlink, "data/prepared/test is missing; run `dvc repro` first"),
        (lambda: edit_metrics(accuracy=0.9), "accuracy 0.9000 on data/prepared/test, but it has 1.0000"),
    ],
)
def test_missing_or_stale_results_are_one_sentence_and_exit_code_2(
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[], object],
    said: str,
) -> None:
    write_results(PERFECT, 1.0)
    spoil()
    monkeypatch.setattr(publish, "load_params", lambda: params)
    assert publish.main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert aliases(params) == (None, None)


def test_a_file_that_changed_after_the_gate_is_not_published(params: Params) -> None:
    write_results(PERFECT, 1.0)
    report = publish.gate(params)
    write_results(THREE_QUARTERS, 0.75)
    with pytest.raises(ValueError, match="changed after the gate judged it"):
        publish.publish(params, None, report)


def test_the_command_ends_with_0_when_published_3_when_refused_and_1_without_a_registry(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(publish, "load_params", lambda: params)
    write_results(PERFECT, 1.0, parity=1.0)
    assert publish.main([]) == 3
    assert "REFUSED: parity 1, at most 0.001" in capsys.readouterr().out
    edit_metrics(parity=0.0)
    assert publish.main([]) == 0
    assert "accuracy  searched 100.00%" in capsys.readouterr().out
    assert publish.main([]) == 0
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    assert publish.main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the MLflow registry cannot be used (")
    assert error.count("\n") == 1


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        publish.main(["--help"])
    assert ended.value.code == 0
    assert "3 refused by the gate" in " ".join(capsys.readouterr().out.split())
