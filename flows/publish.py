"""The gate before the registry, publishing, and the way back: `python -m flows.publish [rollback]`.

The gate (flows/gate.py decides) measures the very file that would ship, here and now: its answers beside the
champion's on the same test images, both computed from the registered or trained file, its latency on this machine (a
recorded one may come from another machine, or from before a slower library), and reads what `evaluate` found for the
parity with torch (of the float file, from which a quantised one is made: that one must be as accurate as the float
file, up to the margin). Whatever it says, the model is registered once (by the md5 of its bytes) and becomes
`challenger`; only a passed gate moves `champion`, after the registry has given back the same model through its alias.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("publish")  # before the libraries: help waits for none of them

import getpass
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from components.architecture.timing import PROVIDERS, Measurement, measure_model
from components.data.store import CONTENTS, Split, open_split, read_classes, read_contents
from components.settings.params import Params
from components.shipping.evaluation import onnx_logits
from components.shipping.export import read_metadata
from components.shipping.quantisation import QUANTIZE
from flows import decision, findings, gate, notes, paths, registry, tracking, trained_on, versions
from flows.files import read_json
from flows.findings import Findings, Outcome
from flows.gate import GateReport
from flows.registry import CHALLENGER, CHAMPION, RegistryError
from flows.report import charts, headline, page
from flows.settings import load_params

MODEL = paths.MODEL
BASELINE = paths.TRAINED / "baseline" / "model.onnx"
METRICS = paths.EVALUATE / "metrics.json"
ARCHIVED = (paths.PARAMS, versions.PIPELINE, versions.LOCK, *paths.DATA.values(), *paths.STARTS.values())
"""What the run of a decision keeps, so that an auditor finds it when the checkout has moved on."""
STALE = 0.005
"""How far a recorded accuracy may be from the one measured again on another machine (ours)."""
EXAMPLES = 2
"""Real images that show how the registered model is called."""
LISTED = 10
"""Class names that a sentence holds; gate.json has them all."""
ATTEMPTS = 3
"""Times that a latency is measured which is too long."""
COMPARED = 64
"""Test images whose logits must be the same through the registry."""

PREFECT = "prefect.flow_run_url"
"""Tag of a retrain's run: its page in Prefect, where that has a server that stays."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Published:
    """How it ended; `version` is the model's own version in the registry, `run` keeps the decision."""

    version: str
    outcome: Outcome
    report: GateReport
    run: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a new model is compared with."""

    name: str
    model: bytes
    ships: bool
    """Whether it is in service: the first model of a name is shown beside the baseline, and need not be better."""


def quietest(measure: Callable[[], Measurement], params: Params) -> Measurement:
    """A latency that passes, else the last one: other work on the machine can lengthen a tail, and shorten none."""
    for _ in range(ATTEMPTS):
        time = measure()
        if all(check.passed for check in gate.latency_checks(time, params.architecture.budget, params.gate)):
            break
    return time


def measured_here(model: bytes, params: Params) -> Measurement:
    """The file's latency in a warm session on this machine; its provider is verified."""
    return measure_model(model, params.latency, params.evaluate.repeats)


def judge(params: Params, measure: Callable[[bytes, Params], Measurement] = measured_here) -> GateReport:
    """Judge the searched model. Raises ValueError if results are missing or stale, RegistryError."""
    model, metrics = read_result(MODEL), json.loads(read_result(METRICS))
    md5 = tracking.md5_of(model)
    with registry.registry():
        champion = tracking.load_by_alias(params.publish.model, CHAMPION)
        withdrawn = registry.withdrawn_at(params.publish.model, md5)
    number = champion.version if champion else None
    if champion:
        registry.require_intact(champion)
        if champion.md5 == md5:
            return GateReport(md5=md5, champion=number, against="itself", checks=())
    test, names = test_images(), read_classes(paths.CLASSES).names
    require_size(model, test)
    said, actual = named(model, test, names, params.threads), np.array(names)[test.labels]
    right: Bool[np.ndarray, " n"] = said == actual
    require_fresh(metrics, md5, float(right.mean()))
    reference = (
        Reference(name=f"champion version {champion.version}", model=champion.model, ships=True)
        if champion
        else Reference(name="the baseline, which decides nothing,", model=read_result(BASELINE), ships=False)
    )
    report = compare(reference, right, test, names, params)
    time = quietest(lambda: measure(model, params), params)
    return GateReport(
        md5=md5,
        champion=number,
        against=report.against,
        reference=report.reference,
        score=gate.Score(right=int(right.sum()), images=len(right)),
        added=report.added,
        removed=report.removed,
        device=str(time.device),
        checks=(
            *gate.chance_checks(said, actual, params.gate),
            *report.checks,
            *gate.latency_checks(time, params.architecture.budget, params.gate),
            *gate.size_checks(len(model), params.architecture.max_file_bytes),
            gate.parity_check(recorded(metrics, "parity"), params.gate),
            *quantisation_checks(model, metrics, float(right.mean()), params),
            *gate.withdrawal_checks(withdrawn),
        ),
    )


def read_result(path: Path) -> bytes:
    """A file that the stages write."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run `dvc repro` first") from None


def test_images() -> Split:
    """The test split, as `prepare` left it."""
    try:
        return open_split(paths.TEST)
    except FileNotFoundError:
        raise ValueError(f"{paths.TEST} is missing; run `dvc repro` first") from None


def named(model: bytes, test: Split, names: tuple[str, ...], threads: int) -> np.ndarray:
    """The class name that the model gives each test image; its own class list may differ from the data's."""
    own = np.array(classes_of(model) or names)
    said: np.ndarray = own[onnx_logits(model, test.images, threads=threads).argmax(axis=1)]
    return said


def classes_of(model: bytes) -> tuple[str, ...]:
    """The class names that the file carries, none if it carries none."""
    return tuple(json.loads(read_metadata(model).get("classes", "[]")))


def require_size(model: bytes, test: Split) -> None:
    """Refuse a model that was trained before the images changed their size."""
    size, given = size_of(model), test.images.shape[1:]
    if size is not None and size != given:
        raise ValueError(f"{MODEL} takes images of {shown(size)}, {paths.TEST} has {shown(given)}; run `dvc repro`")


def require_fresh(metrics: dict[str, Any], md5: str, accuracy: float) -> None:
    """Refuse records of another model or another test split."""
    recorded, lock = metrics["searched"]["accuracy"], versions.locked_stage("evaluate")
    read = versions.hashes(lock, "deps").get(MODEL.as_posix(), md5) if lock else md5
    if read != md5:
        raise ValueError(
            f"{METRICS} was written for another {MODEL} (dvc.lock says md5 {read}, this one has {md5}); they are of "
            f"different runs, bring them together with `dvc repro`"
        )
    if abs(recorded - accuracy) > STALE:
        raise ValueError(
            f"{METRICS} says that {MODEL} has accuracy {recorded:.4f} on {paths.TEST}, but it has {accuracy:.4f}; "
            f"they are of different runs, bring them together with `dvc repro`"
        )


def recorded(metrics: dict[str, Any], name: str) -> float:
    """What `evaluate` found for the searched model; nan, which no gate passes, if it did not look."""
    return float(metrics["searched"].get(name, math.nan))


def quantisation_checks(
    model: bytes, metrics: dict[str, Any], accuracy: float, params: Params
) -> tuple[gate.Check, ...]:
    """Only a quantised file has a float one to be compared with."""
    if QUANTIZE not in read_metadata(model):
        return ()
    return (gate.quantisation_check(accuracy, recorded(metrics, "float_accuracy"), params.gate),)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The model beside a reference."""

    against: str
    reference: gate.Score
    added: tuple[str, ...]
    removed: tuple[str, ...]
    checks: tuple[gate.Check, ...]


def compare(
    reference: Reference, right: Bool[np.ndarray, " n"], test: Split, names: tuple[str, ...], params: Params
) -> Comparison:
    """Model and reference on the test images of the classes that both know; `right`: the model's answers."""
    size = size_of(reference.model)
    if size is not None and size != test.images.shape[1:]:
        raise ValueError(
            f"{reference.name} takes images of {shown(size)}, the data has {shown(test.images.shape[1:])}; they cannot "
            f"be compared, publish under another publish.model"
        )
    known, actual = classes_of(reference.model) or names, np.array(names)[test.labels]
    shared = np.isin(actual, known)
    if not shared.any():
        raise ValueError(f"{reference.name} knows none of the data's classes; publish under another publish.model")
    unseen, seen = unseen_by(reference, len(actual))
    shared &= unseen
    if not shared.any():
        raise ValueError(
            f"{reference.name} was trained on every image that is a test image now; publish under another publish.model"
        )
    answers: Bool[np.ndarray, " n"] = named(reference.model, test, names, params.threads) == actual
    rng = np.random.default_rng(params.seed)
    added, removed = tuple(sorted(set(names) - set(known))), tuple(sorted(set(known) - set(names)))
    changed = "".join(
        f"; classes {what}: {listed(classes)}"
        for what, classes in (("it does not know", added), ("the data no longer has", removed))
        if classes
    )
    return Comparison(
        against=f"{reference.name} on {shared.sum()} of {len(shared)} test images{changed}{seen}",
        reference=gate.Score(right=int(answers[shared].sum()), images=int(shared.sum())),
        added=added,
        removed=removed,
        checks=gate.accuracy_checks(right[shared], answers[shared], actual[shared], params.gate, rng)
        if reference.ships
        else (),
    )


def unseen_by(reference: Reference, count: int) -> tuple[Bool[np.ndarray, " n"], str]:
    """Which of the `count` test images the reference was not trained on, and a remark where that is not all of them.

    Where no record is left of it, all are: that can only make it look better, and the new model's task harder.
    """
    every: Bool[np.ndarray, " n"] = np.ones(count, dtype=bool)
    if not reference.ships:
        return every, ""  # trained beside the model, on the same images
    with registry.registry():
        known = trained_on.trained_on(tracking.md5_of(reference.model))
    if known is None:
        return every, "; whether it was trained on any of them is not recorded"
    unseen = np.array([content not in known for content in read_contents(paths.TEST / CONTENTS)])
    return unseen, "" if unseen.all() else f"; it was trained on {(~unseen).sum()} of them"


def listed(classes: tuple[str, ...]) -> str:
    """The first few names."""
    more = f" and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    return ", ".join(classes[:LISTED]) + more


def size_of(model: bytes) -> tuple[int, int, int] | None:
    """(height, width, channels) of the images that the file takes, None if it does not say."""
    noted = read_metadata(model)
    if not {"size", "channels"} <= noted.keys():
        return None
    return int(noted["size"]), int(noted["size"]), int(noted["channels"])


def shown(size: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in size)


def publish(params: Params, parent_run: str | None, report: GateReport) -> Published:
    """Register the judged model once, as challenger; as champion if the gate let it through.

    `parent_run`: the MLflow run that the decision is kept with; None: a run of its own. Raises ValueError if the
    file is not the one that was judged, RegistryError.
    """
    published = register(params, parent_run, report)
    try:
        decision.keep(published.report, params.publish.model, published.version, published.outcome)
    except OSError as error:
        LOG.warning("warning: the decision is in MLflow alone, not in results (%s); the model is registered", error)
    try:
        describe(params, published)
    except (*tracking.ERRORS, *notes.UNREADABLE) as error:
        LOG.warning("warning: MLflow is not told what was found (%s); the model is registered", error)
    return published


def register(params: Params, parent_run: str | None, report: GateReport) -> Published:
    """What MLflow and the registry have to do with it."""
    model, name = read_result(MODEL), params.publish.model
    if tracking.md5_of(model) != report.md5:
        raise ValueError(f"{MODEL} changed after the gate judged it; run the gate again")
    if paths.PARAMS.exists() and load_params() != params:  # it is kept as what the model was made with
        raise ValueError(f"{paths.PARAMS} changed while the line ran; run it again")
    proposed = candidate(model, params)
    with registry.registry(), registry.alone(), own_run(parent_run, params) as run:
        tracking.archive(run, ARCHIVED)
        if report.champion and not report.checks:
            record(run, name, report.champion, report)
            return Published(version=report.champion, outcome="already champion", report=report, run=run)
        maker = tracking.find_run(f"dvc.out.{MODEL.as_posix()}", report.md5) or run
        number = tracking.register_model(name, proposed, maker)
        tracking.move_alias(name, CHALLENGER, number)
        report = report.with_checks(*through_the_alias(model, params))
        tracking.retag_version(name, number, findings.tags(report) | origin(run), "gate")
        record(run, name, number, report)
        if not report.passed:
            return Published(version=number, outcome="refused", report=report, run=run)
        if tracking.alias_version(name, CHAMPION) != report.champion:
            raise RegistryError("the champion changed while its challenger was judged; run the gate again")
        registry.promote(name, number, report.champion)
        return Published(version=number, outcome="published", report=report, run=run)


def record(run: str, name: str, number: str, report: GateReport) -> None:
    """The decision on the run that it was made in."""
    tracking.log_json(run, report.to_json(), "gate.json")
    tracking.tag_run(run, {"model": name, "model.version": number, "gate": findings.verdict(report)})


def describe(params: Params, published: Published) -> None:
    """Numbers and words for whoever looks: on the decision's run, the model version and the registered model."""
    found = found_by(params, published)
    tracking.log_metrics(published.run, findings.charted(found))
    tracking.describe(published.run, run_note(found, published.run))
    tracking.describe_model(found.name, findings.MODEL.format(name=found.name))
    if found.report.checks:
        tracking.describe_version(found.name, found.version, version_note(found, published.run))


def found_by(params: Params, published: Published) -> Findings:
    return findings.read(params, published.report, published.version, published.outcome, headline.costs())


def run_note(found: Findings, run: str, linked: Callable[[str], str] = str) -> str:
    """Of the decision's run. `linked`: from a page of MLflow's UI to its address; inside the UI that is the same."""
    links = {
        "Report": linked(tracking.run_page(run, paths.REPORT.name)),
        f"{found.name} version {found.version}": linked(tracking.version_page(found.name, found.version)),
    }
    if address := tracking.run_tags(run).get(PREFECT):
        links["Prefect"] = address
    stages = {name: (how, linked(tracking.run_page(made))) for name, (how, made) in tracking.linked_stages(run).items()}
    return findings.run_note(found, links, stages)


def version_note(found: Findings, run: str) -> str:
    """Of the model version: back to the run that judged it."""
    links = {"The run that judged it": tracking.run_page(run), "Report": tracking.run_page(run, paths.REPORT.name)}
    return findings.version_note(found, links)


def through_the_alias(model: bytes, params: Params) -> tuple[gate.Check, ...]:
    """What a user of the challenger's alias loads now, beside the file that was judged."""
    images = test_images().images[:COMPARED]
    loaded = tracking.load_by_alias(params.publish.model, CHALLENGER)
    logits = onnx_logits(model, images, threads=params.threads)
    again = onnx_logits(loaded.model, images, threads=params.threads) if loaded else None
    found = tracking.md5_of(loaded.model) if loaded else registry.NONE
    return gate.registry_checks(tracking.md5_of(model), found, logits, again)


@contextmanager
def own_run(parent_run: str | None, params: Params) -> Iterator[str]:
    """The given run, or a new one for as long as the block lasts."""
    if parent_run is not None:
        yield parent_run
        return
    with tracking.parent_run("publish", versions.code_tags()) as run:
        if run is None:
            raise RegistryError("the MLflow registry cannot be used; nothing was promoted")
        tracking.log_settings(run, asdict(params))
        yield run


def candidate(model: bytes, params: Params) -> tracking.Candidate:
    providers = dict.fromkeys((PROVIDERS[params.latency.provider], PROVIDERS["cpu"]))
    example = np.array(test_images().images[:EXAMPLES])
    return tracking.Candidate(model=model, example=example, requirements=requirements(), providers=tuple(providers))


def requirements() -> tuple[str, ...]:
    """What runs the model, pinned to what it was checked with."""
    return tuple(f"{name}=={version(name)}" for name in ("numpy", "onnx", runtime_package()))


def runtime_package() -> str:
    """The name under which ONNX Runtime is installed here."""
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        return "onnxruntime"
    return "onnxruntime-gpu"


def origin(run: str) -> dict[str, str]:
    """Where an auditor begins: the code, the run of the decision, and the sha256 of each file archived there."""
    archived = {f"archived.{file.as_posix()}": versions.digest(file) for file in ARCHIVED if file.exists()}
    return versions.code_tags() | {"gate.run": run} | archived


def keep_report(params: Params, run: str) -> None:
    """Write results/report.html, and keep it with the decision's run; what is published stays so if that fails."""
    try:
        made = page.make(params)
        tracking.archive(run, [page.write(params, made)])
        keep_charts(made, run)
    except OSError as error:
        LOG.warning("warning: %s was not written (%s); `python -m flows.report` tries again", paths.REPORT, error)


def keep_charts(made: page.Made, run: str) -> None:
    """Every chart of the report with the run of the stage that it is about, else with the decision's."""
    for chart in charts.charts(made):
        with tracking.tolerated(chart.name):
            lock = versions.locked_stage(chart.stage) if chart.stage else None
            maker = tracking.find_stage_run(versions.stage_key(lock)) if lock else run
            if maker is not None:
                tracking.log_bytes(maker, chart.content, chart.name)


def summary(params: Params, published: Published) -> str:
    """What a person wants to know at the end of a run, and where to look further."""
    metrics, latency = json.loads(read_result(METRICS)), read_json(paths.EVALUATE / "latency.json")
    searched, baseline, measured = metrics["searched"], metrics["baseline"], latency["searched"]
    name, report = params.publish.model, published.report
    alias = CHALLENGER if published.outcome == "refused" else CHAMPION
    lines = [
        f"model     {name} version {published.version} {published.outcome}: models:/{name}@{alias}",
        f"accuracy  searched {searched['accuracy']:.2%} ({searched['accuracy_low']:.2%} to "
        f"{searched['accuracy_high']:.2%}), baseline {baseline['accuracy']:.2%}, on {metrics['images']} test images",
        f"latency   measured {measured['p50_ms']:.3f} ms, predicted {measured['predicted_ms']:.3f} ms, "
        f"budget {params.architecture.budget:.3f} ms",
        *quantisation_lines(searched, measured),
        *[f"gate      {'passed' if check.passed else 'REFUSED'}: {check}" for check in report.checks],
        f"gate      compared with {report.against}",
        f"look      {paths.REPORT}; mlflow/serve, then {look(published.run)}",
    ]
    return "\n".join(lines)


def look(run: str) -> str:
    """The run's address, the server's if MLflow cannot be asked any more."""
    with suppress(*tracking.ERRORS):
        return tracking.address_of(tracking.run_page(run))
    return tracking.address_of("")


def quantisation_lines(searched: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """What a quantised file gained and lost; nothing for a float one."""
    if "agreement" not in searched:
        return []
    return [
        f"int8      float accuracy {searched['float_accuracy']:.2%}, float latency {measured['float_p50_ms']:.3f} ms, "
        f"the same class on {searched['agreement']:.2%} of the images"
    ]


def main(arguments: list[str] | None = None) -> int:
    chosen = commands.parse("publish", arguments)
    try:
        params = load_params()
        return (
            go_back(params, chosen.by or person(), chosen.reason)
            if chosen.command == "rollback"
            else go_forward(params)
        )
    except ValueError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except RegistryError as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1


def go_forward(params: Params) -> int:
    published = publish(params, None, judge(params))
    keep_report(params, published.run)
    print(summary(params, published))
    return 3 if published.outcome == "refused" else 0


def go_back(params: Params, who: str, why: str) -> int:
    name = params.publish.model
    try:
        done = registry.roll_back(name, who, why)
    except KeyboardInterrupt:
        print(
            f"error: interrupted; see which version models:/{name}@{CHAMPION} is before you repeat it: done twice, it "
            f"goes back two",
            file=sys.stderr,
        )
        return 130
    print(f"champion  {name} version {done.restored}, back in service: models:/{name}@{CHAMPION}")
    print(f"withdrawn version {done.withdrawn}, by {who}: {why or 'no reason given'}")
    renew_report(params)
    return 0


def renew_report(params: Params) -> None:
    """A report that lies here says which version is in service."""
    if paths.REPORT.exists():
        try:
            page.write(params, page.make(params))
        except (OSError, ValueError) as error:
            LOG.warning("warning: %s still is from before (%s)", paths.REPORT, error)


def person() -> str:
    """Who sits here. Raises ValueError where nobody has a name, as in some containers."""
    try:
        return versions.git("config", "user.name") or getpass.getuser()
    except (KeyError, OSError):
        raise ValueError("nobody knows who you are here; say it with --by") from None


if __name__ == "__main__":
    commands.run(main)
