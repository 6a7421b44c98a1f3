"""Only a model that passes every check becomes champion, and what users load is the model that was judged."""

import dataclasses
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from mlflow.exceptions import MlflowException

from components.architecture.timing import Measurement, device_of
from components.data.store import CONTENTS, Classes, read_contents, write_classes, write_contents, write_split
from components.settings.budget import Budget
from components.settings.params import Params
from components.shipping.export import read_metadata
from components.shipping.quantisation import QUANTIZE
from flows import publish
from flows.checkout import files, paths, versions
from flows.checkout.settings import load_params
from flows.release import judge, registry, trained_on
from flows.release.decision_record import Published
from flows.release.gate import Score
from flows.release.registry import RegistryError
from flows.settings import PRESETS
from flows.tracking import connection, models, runs, stage_run
from tests.clones import ROOT
from tests.damage import flipped
from tests.flows.test_tracking import SIDE, linear_model

NAMES = ("a", "b", "c", "d")
IMAGES = 40
DIGITS = load_params(PRESETS / "digits.yaml")


def model_of(*known: str, names: tuple[str, ...] = NAMES, side: int = SIDE) -> bytes:
    """A model that is right on the classes in `known` (and says the first class for any other image)."""
    weights = np.zeros((side**2, len(names)))
    for column, name in enumerate(names):
        if name in known:
            weights[NAMES.index(name), column] = 1
    return linear_model(weights, names, side)


PERFECT, THREE_QUARTERS, HALF = model_of(*NAMES), model_of("a", "b", "c"), model_of("a", "b")


def measured(quiet_ms: float = 0.5, p99_ms: float = 0.6) -> Measurement:
    device = device_of(DIGITS.latency)
    return Measurement(
        quiet_ms=quiet_ms, p50_ms=quiet_ms, p99_ms=p99_ms, clock="wall", device=device, samples=(quiet_ms,)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests: creating its tables takes seconds. Each test publishes under its own name."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture
def params(folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Params:
    """A workspace with a test split: an image of class k has its k-th pixel alight. The budget is 1 ms."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(judge, "measure_model", lambda model, settings, repeats: measured())
    write_images(SIDE)
    write_classes(paths.CLASSES, Classes(names=NAMES, size=SIDE, channels=1))
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return dataclasses.replace(
        DIGITS,
        budget=Budget(latency_ms=1.0),
        gate=dataclasses.replace(DIGITS.gate, alpha=0.05, margin=0.01, class_alpha=0.05, p99=2.0, parity=1e-3),
        publish=dataclasses.replace(DIGITS.publish, model=name),
    )


def lenient(params: Params, **settings: Any) -> Params:
    """Nothing of the comparison matters but what is given."""
    off = {"alpha": 0.0, "margin": 0.99, "class_alpha": 0.0} | settings
    return dataclasses.replace(params, gate=dataclasses.replace(params.gate, **off))


def write_images(side: int) -> None:
    images, labels = np.zeros((IMAGES, side**2), dtype=np.uint8), np.arange(IMAGES) % len(NAMES)
    images[np.arange(IMAGES), labels] = 255
    write_split(paths.TEST, images.reshape(IMAGES, side, side, 1), labels)
    write_contents(paths.TEST, [f"{number:064x}" for number in range(IMAGES)])


def write_results(model: bytes, accuracy: float, baseline: bytes = HALF, parity: float = 1e-5) -> None:
    """What train and evaluate leave behind."""
    files.write_bytes(judge.MODEL, model)
    files.write_bytes(judge.BASELINE_MODEL, baseline)
    scores = {"accuracy": accuracy, "accuracy_low": accuracy, "accuracy_high": accuracy, "parity": parity}
    other = {"accuracy": 0.5, "accuracy_low": 0.35, "accuracy_high": 0.65}
    files.write_json(judge.METRICS, scores | {"images": IMAGES})
    files.write_json(paths.of_variant(judge.METRICS, "baseline"), other | {"images": IMAGES})
    latency = {"quiet_ms": 0.5, "p50_ms": 0.5, "p99_ms": 0.6, "predicted_ms": 0.4, "clock": "wall"}
    for variant in ("searched", "baseline"):
        files.write_json(paths.of_variant(paths.MEASURED, variant), latency | {"limit_ms": 1.0})


def ship(params: Params, quiet_ms: float = 0.5, p99_ms: float = 0.6) -> Published:
    report = judge.judge(params, measure=lambda model, params: measured(quiet_ms, p99_ms))
    return publish.publish(params, None, report)


def aliases(params: Params) -> tuple[str | None, str | None, str | None]:
    """Versions of (champion, challenger, previous)."""
    champion, challenger, previous = (
        models.alias_version(params.publish.model, alias) for alias in ("champion", "challenger", "previous")
    )
    return champion, challenger, previous


def refused(published: Published) -> set[str]:
    return {check.name for check in published.report.checks if not check.passed}


@pytest.mark.parametrize(
    ("baseline", "times", "parity", "names"),
    [
        (HALF, (0.5, 0.6), 1e-5, set()),
        (THREE_QUARTERS, (1.0, 2.0), 1e-3, set()),  # each exactly at its threshold
        (PERFECT, (0.5, 0.6), 1e-5, set()),  # which does not ship
        (HALF, (1.01, 1.5), 1e-5, {"latency_quiet_ms"}),
        (HALF, (0.5, 2.01), 1e-5, {"latency_p99_ms"}),
        (HALF, (0.5, 0.6), 2e-3, {"parity"}),
        (HALF, (float("nan"), 0.6), 1e-5, {"latency_quiet_ms"}),
    ],
)
def test_the_first_model_replaces_nobody_and_ships_only_if_every_check_against_the_budget_passes(
    params: Params, baseline: bytes, times: tuple[float, float], parity: float, names: set[str]
) -> None:
    write_results(THREE_QUARTERS, 0.75, baseline=baseline, parity=parity)
    published = ship(params, *times)
    assert published.report.against == "the baseline, which decides nothing, on 40 of 40 test images"
    right = sum(name in {HALF: "ab", THREE_QUARTERS: "abc", PERFECT: "abcd"}[baseline] for name in NAMES)
    assert published.report.reference == Score(right=right * 10, images=40)
    assert refused(published) == names
    assert published.outcome == ("refused" if names else "published")
    assert aliases(params) == (None if names else "1", "1", None)


def test_the_first_model_of_a_line_without_a_baseline_is_compared_with_nothing(params: Params) -> None:
    write_results(PERFECT, 1.0)
    judge.BASELINE_MODEL.unlink()
    alone = dataclasses.replace(params, train=dataclasses.replace(params.train, variants=("searched",)))
    published = ship(alone)
    assert published.outcome == "published"
    assert published.report.against == "nothing: it is the first of its name, and no baseline was trained"
    assert published.report.reference is None
    assert ", baseline" not in publish.summary(alone, published)


def test_a_further_budget_and_its_model_are_nothing_to_the_gate(params: Params) -> None:
    write_results(THREE_QUARTERS, 0.75)
    files.write_bytes(paths.TRAINED / "budget_2" / "model.onnx", PERFECT)
    two = dataclasses.replace(params, budget=Budget(latency_ms=(1.0, 0.4)))
    published = ship(two, quiet_ms=0.5)
    assert published.outcome == "published"
    assert [check.threshold for check in published.report.checks if check.name == "latency_quiet_ms"] == [1.0]
    assert models.load_version(params.publish.model, "1").md5 == files.md5_of(THREE_QUARTERS)


@pytest.mark.parametrize(("spare", "outcome"), [(0, "published"), (-1, "refused")])
def test_a_file_over_its_limit_does_not_ship(params: Params, spare: int, outcome: str) -> None:
    write_results(PERFECT, 1.0)
    limit = len(PERFECT) + spare
    limited = dataclasses.replace(params.architecture, max_file_bytes=limit)
    published = ship(dataclasses.replace(params, architecture=limited))
    assert published.outcome == outcome
    assert [check.threshold for check in published.report.checks if check.name == "file_bytes"] == [limit]


@pytest.mark.parametrize(
    ("searched", "names"),
    [
        ({"float_accuracy": 0.75}, set()),
        ({"float_accuracy": 0.76}, set()),  # exactly at its threshold
        ({"float_accuracy": 0.77}, {"quantisation"}),
        ({}, {"quantisation"}),
    ],
)
def test_a_quantised_file_ships_only_if_it_is_as_accurate_as_its_float_file(
    params: Params, searched: dict[str, float], names: set[str]
) -> None:
    model = onnx.load_from_string(THREE_QUARTERS)
    onnx.helper.set_model_props(model, read_metadata(THREE_QUARTERS) | {QUANTIZE: "int8"})
    write_results(model.SerializeToString(), 0.75)
    edit_metrics(**searched)
    report = judge.judge(params)
    assert {check.name for check in report.checks if check.name == "quantisation"} == {"quantisation"}
    assert {check.name for check in report.checks if not check.passed} == names


def test_the_next_model_must_not_be_worse_than_the_champion_on_the_same_images(params: Params) -> None:
    write_results(PERFECT, 1.0)
    assert ship(params).outcome == "published"
    write_results(THREE_QUARTERS, 0.75)
    worse = ship(params)
    assert (worse.outcome, worse.report.champion) == ("refused", "1")
    unknown = "; whether it was trained on any of them is not recorded"
    assert worse.report.against == f"champion version 1 on 40 of 40 test images{unknown}"
    assert refused(worse) == {"accuracy", "mcnemar_p", "class_p"}
    assert aliases(params) == ("1", "2", None)
    assert refused(ship(lenient(params, class_alpha=0.05))) == {"class_p"}
    assert ship(lenient(params)).outcome == "published"
    assert aliases(params) == ("2", "2", "1")


def test_the_champion_is_not_judged_on_images_that_it_was_trained_on(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change of data.test ten images of class d, which the champion knows by heart, are test images."""
    write_results(PERFECT, 1.0)
    ship(params)
    contents = read_contents(paths.TEST / CONTENTS)
    seen = {content for number, content in enumerate(contents) if NAMES[number % len(NAMES)] == "d"}
    monkeypatch.setattr(trained_on, "trained_on", lambda md5: seen if md5 == files.md5_of(PERFECT) else None)
    write_results(THREE_QUARTERS, 0.75)
    report = judge.judge(params)
    assert report.against == "champion version 1 on 30 of 40 test images; it was trained on 10 of them"
    assert report.reference == Score(right=30, images=30)
    assert report.passed
    monkeypatch.setattr(trained_on, "trained_on", lambda md5: set(contents))
    with pytest.raises(ValueError, match="champion version 1 was trained on every image that is a test image now"):
        judge.judge(params)


@pytest.mark.parametrize(("times", "outcome"), [((1.5, 1.2, 0.9), "published"), ((1.5, 1.2, 1.1), "refused")])
def test_a_latency_that_is_too_long_is_measured_again_before_it_is_believed(
    params: Params, times: tuple[float, ...], outcome: str
) -> None:
    write_results(PERFECT, 1.0)
    left = iter(times)
    report = judge.judge(params, measure=lambda model, params: measured(next(left), 0.6))
    assert publish.publish(params, None, report).outcome == outcome
    assert list(left) == []


def test_publishing_the_champion_again_changes_nothing_and_says_so(params: Params) -> None:
    write_results(PERFECT, 1.0)
    ship(params)
    again = ship(params, quiet_ms=99.0)
    assert (again.outcome, again.version, again.report.passed) == ("already champion", "1", True)
    assert "already champion" in publish.summary(params, again)
    assert len(connection.connect().search_model_versions(f"name = '{params.publish.model}'")) == 1


def test_a_refused_model_that_is_judged_again_keeps_its_version(params: Params) -> None:
    write_results(PERFECT, 1.0)
    assert ship(params, quiet_ms=1.5).outcome == "refused"
    assert ship(params, quiet_ms=0.9).outcome == "published"
    assert aliases(params) == ("1", "1", None)


def test_with_another_class_list_champion_and_model_are_compared_on_the_shared_classes(params: Params) -> None:
    write_results(model_of("a", "b", names=("b", "a", "z")), 0.5)
    ship(params)
    write_results(HALF, 0.5)
    report = judge.judge(params)
    assert report.against == (
        "champion version 1 on 20 of 40 test images; classes it does not know: c, d; classes the data no longer has: z"
        "; whether it was trained on any of them is not recorded"
    )
    assert (report.added, report.removed) == (("c", "d"), ("z",))
    assert (report.checks[1].value, report.checks[1].threshold) == (1.0, 0.99)


def test_a_champion_for_images_of_another_size_is_named_and_not_replaced(params: Params) -> None:
    write_images(5)
    write_results(model_of(*NAMES, side=5), 1.0, baseline=model_of("a", side=5))
    assert ship(params).outcome == "published"
    write_images(4)
    with pytest.raises(ValueError, match=r"model\.onnx takes images of 5x5x1, data/prepared/test has 4x4x1"):
        judge.judge(dataclasses.replace(params, publish=dataclasses.replace(params.publish, model="other")))
    write_results(PERFECT, 1.0)
    with pytest.raises(ValueError, match="champion version 1 takes images of 5x5x1, the data has 4x4x1"):
        judge.judge(params)
    assert aliases(params) == ("1", "1", None)


def test_the_decision_is_on_the_run_and_on_the_model_version(params: Params) -> None:
    write_results(PERFECT, 1.0)
    with runs.parent_run("retrain", {}) as parent:
        report = judge.judge(params, measure=lambda model, params: measured(quiet_ms=1.5))
        published = publish.publish(params, parent, report)
    client = connection.connect()
    decided = json.loads(Path(client.download_artifacts(str(parent), "gate.json")).read_text())
    assert [(check["name"], check["passed"]) for check in decided["checks"]] == [
        ("chance_p", True),
        ("latency_quiet_ms", False),
        ("latency_p99_ms", True),
        ("parity", True),
        ("registry_md5", True),
        ("registry_logits", True),
    ]
    assert decided["passed"] is False
    assert "cpu" in decided["device"]
    tags = client.get_model_version(params.publish.model, published.version).tags
    against = "the baseline, which decides nothing, on 40 of 40 test images"
    assert (tags["gate"], tags["gate.against"]) == ("refused", against)
    assert (tags["gate.refused"], tags["accuracy"], tags["latency_ms"]) == ("latency_quiet_ms", "1", "1.5")
    assert tags["gate.run"] == parent
    assert client.get_run(str(parent)).data.tags["model.version"] == published.version
    assert "| latency_quiet_ms | 1.5 | at most 1 | **REFUSED** |" in published.report.to_markdown()


def test_what_an_earlier_decision_said_of_a_version_is_gone_after_the_next(params: Params) -> None:
    write_results(HALF, 0.5)
    ship(params)
    write_results(PERFECT, 1.0)
    number = ship(params, quiet_ms=1.5).version
    bootstrap = dataclasses.replace(params, gate=dataclasses.replace(params.gate, test="bootstrap"))
    assert ship(bootstrap).version == number
    tags = models.version_tags(params.publish.model, number)
    assert (tags["gate"], tags["latency_ms"], "gate.refused" in tags) == ("passed", "0.5", False)
    said = connection.connect().get_model_version(params.publish.model, number).description
    assert "loss_bound" in said
    assert "mcnemar_p" not in said
    assert "refused" not in said.lower()


def test_numbers_and_words_of_the_decision_are_where_somebody_looks(params: Params) -> None:
    write_results(PERFECT, 1.0)
    with runs.parent_run("retrain", {publish.PREFECT: "http://127.0.0.1:4200/runs/flow-run/x"}) as parent:
        run = str(parent)
        publish.publish(params, parent, judge.judge(params, measure=lambda model, params: measured()))
    client, name = connection.connect(), params.publish.model
    shown = client.get_run(run).data
    text = shown.tags[connection.NOTE]
    lead = text.split("\n\n")[:3]
    result = "**Version 1 published: accuracy 100.00%**, baseline 50.00%; latency **0.5 ms** of 1 ms."
    assert lead[:2] == [result, "The gate passed it (6 checks). What the searches cost was not recorded."]
    assert "Compared with the baseline, which decides nothing, on 40 of 40 test images." in text
    addresses = re.findall(r"\]\(([^)]+)\)", lead[2])
    assert [address.partition("?")[0] for address in addresses] == [
        f"{runs.run_page(run, 'report.html').partition('?')[0]}",
        f"#/models/{name}/versions/1",
        "http://127.0.0.1:4200/runs/flow-run/x",
    ]
    assert {key: shown.metrics[f"headline/{key}"] for key in ("accuracy", "accuracy_baseline", "latency_ms")} == {
        "accuracy": 1.0,
        "accuracy_baseline": 0.5,
        "latency_ms": 0.5,
    }
    version = client.get_model_version(name, "1").description
    assert version.startswith(result.replace("**", ""))
    assert runs.run_page(run) in version
    assert f"models:/{name}@champion" in client.get_registered_model(name).description


def test_what_a_person_wrote_of_the_model_stays(params: Params) -> None:
    write_results(PERFECT, 1.0)
    ship(params)
    connection.connect().update_registered_model(params.publish.model, "For the shop floor.")
    ship(params)
    assert connection.connect().get_registered_model(params.publish.model).description == "For the shop floor."


def test_a_result_file_that_cannot_be_put_into_words_does_not_undo_what_was_published(
    params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    write_results(PERFECT, 1.0)
    report = judge.judge(params, measure=lambda model, params: measured())
    files.write_json(paths.MEASURED, {})
    assert publish.publish(params, None, report).outcome == "published"
    assert aliases(params) == ("1", "1", None)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("warning: MLflow is not told what was found")


def test_the_version_belongs_to_the_run_that_wrote_the_file(params: Params) -> None:
    write_results(PERFECT, 1.0)
    train = stage_run.StageRun(
        "train@searched", None, {"dvc.out.results/train/searched/model.onnx": files.md5_of(PERFECT)}
    )
    train.end("FINISHED")
    number = ship(params).version
    assert connection.connect().get_model_version(params.publish.model, number).run_id == train.run_id


@pytest.mark.parametrize("broken", [THREE_QUARTERS, None])
def test_a_registry_that_gives_back_another_model_moves_no_champion(
    params: Params, monkeypatch: pytest.MonkeyPatch, broken: bytes | None
) -> None:
    write_results(PERFECT, 1.0)
    report = judge.judge(params)
    other = models.Shipped(version="1", md5=report.md5, model=broken) if broken else None
    monkeypatch.setattr(models, "load_by_alias", lambda name, alias: other)
    assert refused(publish.publish(params, None, report)) == {"registry_md5", "registry_logits"}
    assert aliases(params)[0] is None


def test_nothing_is_judged_beside_a_champion_whose_registered_file_is_damaged(params: Params) -> None:
    write_results(THREE_QUARTERS, 0.75)
    ship(params)
    shipped = models.load_by_alias(params.publish.model, "champion")
    assert shipped is not None
    write_results(PERFECT, 1.0)
    with flipped(registered_file(params, "1")), pytest.raises(RegistryError, match="file of version 1 is damaged"):
        judge.judge(params)
    assert ship(params).outcome == "published"


def registered_file(params: Params, number: str) -> Path:
    """Where the version's ONNX file lies."""
    client = connection.connect()
    model_id = client.get_model_version(params.publish.model, number).source.removeprefix("models:/")
    location = client.get_logged_model(model_id).artifact_location
    return Path(location.removeprefix("file://")) / "model.onnx"


class Killed(BaseException):
    """What a kill looks like from inside: no handler of ours runs."""


@pytest.mark.parametrize(
    ("module", "function", "call"),
    [
        (models, "log_model", 1),  # nothing is registered yet
        (models, "move_alias", 1),  # registered, no challenger yet
        (models, "retag_version", 1),
        (runs, "log_json", 1),
        (registry, "promote", 1),
        (models, "move_alias", 2),  # within promote: before `previous`
        (models, "move_alias", 3),  # before `champion`
    ],
)
def test_killed_between_registering_and_promoting_the_old_champion_stays_and_the_next_try_ends_the_work(
    params: Params, monkeypatch: pytest.MonkeyPatch, module: Any, function: str, call: int
) -> None:
    write_results(THREE_QUARTERS, 0.75)
    ship(params)
    write_results(PERFECT, 1.0)
    real, calls = getattr(module, function), []

    def dying(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(module, function, dying)
        with pytest.raises(Killed):
            ship(params)
    assert aliases(params)[0] == "1"
    assert ship(params).outcome == "published"
    assert aliases(params) == ("2", "2", "1")
    assert len(connection.connect().search_model_versions(f"name = '{params.publish.model}'")) == 2


def shipped_in_turn(params: Params, *models: bytes) -> None:
    for model, accuracy in zip(models, (0.5, 0.75, 1.0), strict=False):
        write_results(model, accuracy)
        assert ship(params).outcome == "published"


def test_two_decisions_on_one_registry_do_not_cross(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(THREE_QUARTERS, 0.75)
    monkeypatch.setattr(registry, "PATIENCE", 0.2)
    with registry.decision_lock(), pytest.raises(RegistryError, match="another model is being decided on"):
        ship(params)
    assert ship(params).outcome == "published"
    assert ship(params).outcome == "already champion"


@pytest.fixture
def removed_after(params: Params) -> Iterator[None]:
    """The folder is that of all tests."""
    yield
    for file in (versions.LOCK, paths.PARAMS):
        file.unlink(missing_ok=True)


@pytest.mark.usefixtures("removed_after")
def test_a_model_that_was_trained_after_its_evaluation_is_not_judged_by_it(params: Params) -> None:
    """As accurate as the one before, to half a point: only dvc.lock knows."""
    write_results(THREE_QUARTERS, 0.75)
    dep = {"path": judge.MODEL.as_posix(), "md5": files.md5_of(PERFECT)}
    versions.LOCK.write_text(yaml.safe_dump({"stages": {"evaluate@searched": {"cmd": "x", "deps": [dep]}}}))
    with pytest.raises(ValueError, match=r"was written for another results/train/searched/model\.onnx"):
        judge.judge(params)
    versions.LOCK.write_text(yaml.safe_dump({"stages": {"evaluate@searched": {"cmd": "x", "deps": []}}}))
    assert judge.judge(params).passed


@pytest.mark.usefixtures("removed_after")
def test_settings_that_were_edited_meanwhile_are_not_kept_as_what_the_model_was_made_with(params: Params) -> None:
    write_results(THREE_QUARTERS, 0.75)
    report = judge.judge(params)
    shutil.copy(ROOT / "tests" / "tiny.yaml", paths.PARAMS)
    with pytest.raises(ValueError, match=r"params\.yaml changed while the line ran; run it again"):
        publish.publish(params, None, report)
    assert aliases(params) == (None, None, None)


def test_a_rollback_goes_back_one_champion_at_a_time_and_says_who_when_and_why(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publish, "load_params", lambda: params)
    shipped_in_turn(params, HALF, THREE_QUARTERS, PERFECT)
    publish.keep_report(params, models.version_tags(params.publish.model, "3")["gate.run"])
    assert f"{params.publish.model} version 3 is in service" in paths.REPORT.read_text()
    assert publish.main(["rollback", "--by", "someone", "--reason", "too slow in the field"]) == 0
    assert "version 3, by someone: too slow in the field" in capsys.readouterr().out
    said = "version 3 passed the gate, but is not in service: version 2 is, since someone rolled version 3 back"
    assert said in paths.REPORT.read_text()
    assert aliases(params) == ("2", "3", "1")
    tags = models.version_tags(params.publish.model, "3")
    assert (tags["rollback.by"], tags["rollback.reason"], tags["rollback.to"]) == (
        "someone",
        "too slow in the field",
        "2",
    )
    assert tags["rollback.at"].startswith("20")
    assert publish.main(["rollback"]) == 0
    assert aliases(params) == ("1", "3", None)
    assert publish.main(["rollback"]) == 2
    assert "version 1 of" in capsys.readouterr().err
    assert aliases(params) == ("1", "3", None)


def test_a_model_that_was_rolled_back_does_not_come_back_by_itself(params: Params) -> None:
    shipped_in_turn(params, HALF, THREE_QUARTERS)
    registry.roll_back(params.publish.model, "someone", "")
    again = ship(params)
    assert (again.outcome, refused(again)) == ("refused", {"rolled_back"})
    assert aliases(params)[0] == "1"
    write_results(PERFECT, 1.0)
    assert ship(params).outcome == "published"
    registry.roll_back(params.publish.model, "someone", "")
    assert aliases(params)[0] == "1"


def test_a_rollback_killed_at_its_one_step_is_done_by_the_same_command_again(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped_in_turn(params, HALF, THREE_QUARTERS, PERFECT)

    def killed(*arguments: Any) -> None:
        raise Killed

    for function, champion in (("move_alias", "3"), ("drop_alias", "2")):
        with monkeypatch.context() as patched:
            patched.setattr(models, function, killed)
            with pytest.raises(Killed):
                registry.roll_back(params.publish.model, "someone", "")
        assert aliases(params)[0] == champion
    assert registry.roll_back(params.publish.model, "someone", "").restored == "1"


def test_a_rollback_whose_view_cannot_be_moved_is_done_and_says_so(
    params: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As an error, it would be repeated, and take back a version more."""
    shipped_in_turn(params, HALF, THREE_QUARTERS, PERFECT)

    def locked(*arguments: Any) -> None:
        raise MlflowException("database is locked")

    monkeypatch.setattr(models, "drop_alias", locked)
    assert registry.roll_back(params.publish.model, "someone", "").restored == "2"
    assert aliases(params)[0] == "2"
    assert "MLflow did not record the alias previous (database is locked)" in caplog.text


def test_a_rollback_that_is_interrupted_asks_to_look_before_it_is_repeated(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "roll_back", interrupted)
    monkeypatch.setattr(publish, "load_params", lambda: params)
    assert publish.main(["rollback", "--by", "someone"]) == 130
    assert "see which version models:/" in capsys.readouterr().err


def test_who_rolls_back_is_asked_where_nobody_has_a_name(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("flows.checkout.commits.git", lambda *arguments: None)
    monkeypatch.setattr("flows.publish.getpass.getuser", nobody)
    monkeypatch.setattr(publish, "load_params", lambda: params)
    assert publish.main(["rollback"]) == 2
    assert capsys.readouterr().err == "error: nobody knows who you are here; say it with --by\n"


def test_a_disk_that_is_full_after_the_promotion_is_a_warning(
    params: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("flows.release.decision_record.keep", full)
    write_results(THREE_QUARTERS, 0.75)
    assert ship(params).outcome == "published"
    assert "the decision is in MLflow alone" in caplog.text


def test_no_damaged_file_is_put_back_into_service(params: Params) -> None:
    shipped_in_turn(params, HALF, THREE_QUARTERS)
    with flipped(registered_file(params, "1")), pytest.raises(RegistryError, match="file of version 1 is damaged"):
        registry.roll_back(params.publish.model, "someone", "")
    assert aliases(params)[0] == "2"


def edit_metrics(**searched: Any) -> None:
    metrics = files.read_json(judge.METRICS)
    metrics |= searched
    files.write_json(judge.METRICS, metrics)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (judge.MODEL.unlink, "model.onnx is missing; run `dvc repro` first"),
        (judge.METRICS.unlink, "metrics.json is missing; run `dvc repro` first"),
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
    assert aliases(params) == (None, None, None)


def test_a_file_that_changed_after_the_gate_is_not_published(params: Params) -> None:
    write_results(PERFECT, 1.0)
    report = judge.judge(params)
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
    assert files.read_json(paths.DECISION)["outcome"] == "refused"
    edit_metrics(parity=0.0)
    assert publish.main([]) == 0
    assert "accuracy  searched 100.00%" in capsys.readouterr().out
    decision = paths.DECISION.read_bytes()
    assert json.loads(decision)["outcome"] == "published"
    assert publish.main([]) == 0
    assert paths.DECISION.read_bytes() == decision, "there was nothing to decide"
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    assert publish.main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the MLflow registry cannot be used (")
    assert error.count("\n") == 1


def test_the_report_is_kept_with_the_decision_and_cannot_undo_it(
    params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    write_results(PERFECT, 1.0)
    published = ship(params)
    publish.keep_report(params, published.run)
    kept = Path(connection.connect().download_artifacts(published.run, "report.html")).read_text()
    assert kept == paths.REPORT.read_text()
    assert f"{params.publish.model} version 1 is in service" in kept
    paths.REPORT.unlink()
    paths.REPORT.mkdir()  # where the file cannot take its place
    publish.keep_report(params, published.run)
    paths.REPORT.rmdir()
    assert "results/report.html was not written" in caplog.text
    assert aliases(params) == ("1", "1", None)


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        publish.main(["--help"])
    assert ended.value.code == 0
    assert "3 refused by the gate" in " ".join(capsys.readouterr().out.split())
