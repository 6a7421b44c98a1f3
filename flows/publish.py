"""The gate before the registry, and publishing: `python -m flows.publish`.

The gate measures the very file that would ship, here and now: its accuracy beside the champion's on the same test
images, its latency on this machine (a recorded one may come from another machine, or from before a slower library),
and reads what `evaluate` found for the parity with torch (of the float file, from which a quantised one is made: that
one must be as accurate as the float file, up to the margin). Whatever it says, the model is registered once (by the
md5 of its bytes) and becomes `challenger`; only a passed gate moves `champion`, after the registry has given back the
same model.

Exit codes: 0 published or already champion, 1 the registry cannot be used, 2 bad input, 3 refused by the gate.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from components.architecture.latency import PROVIDERS, measure_model
from components.data.store import Split, open_split, read_classes
from components.evaluation import onnx_logits
from components.export import read_metadata
from components.params import Params
from components.quantisation import QUANTIZE
from flows import paths, tracking
from flows.files import read_json
from flows.settings import load_params

MODEL = paths.TRAINED / "searched" / "model.onnx"
METRICS = paths.EVALUATE / "metrics.json"
CHAMPION, CHALLENGER = "champion", "challenger"
STALE = 0.005
"""How far a recorded accuracy may be from the one measured again on another machine (ours)."""
EXAMPLES = 2
"""Real images that show how the registered model is called."""
COMPARED = 64
"""Test images whose logits must be the same through the registry."""

Rule = Literal["at least", "at most"]
Outcome = Literal["published", "already champion", "refused"]


class RegistryError(RuntimeError):
    """MLflow cannot be used, or gives back another model than it was given."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing the gate looks at."""

    name: str
    value: float
    rule: Rule
    threshold: float

    @property
    def passed(self) -> bool:
        """Also False if the value is not a number."""
        return self.value >= self.threshold if self.rule == "at least" else self.value <= self.threshold

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g}, {self.rule} {self.threshold:.4g}"


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What the gate found; nothing to decide (no checks) if the model is the champion already."""

    md5: str
    """Of the file that was judged."""
    against: str
    """What its accuracy is compared with, on which images."""
    champion: str | None
    """The champion's version, None before the first."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        checks = [asdict(check) | {"passed": check.passed} for check in self.checks]
        return asdict(self) | {"checks": checks, "passed": self.passed}


@dataclass(frozen=True, kw_only=True)
class Published:
    """How it ended; `version` is the model's own version in the registry."""

    version: str
    outcome: Outcome
    report: GateReport


def measured_p50(model: bytes, params: Params) -> float:
    """Median milliseconds of an inference of the file on this machine."""
    return measure_model(model, params.latency, params.evaluate.repeats).p50_ms


def gate(params: Params, measure: Callable[[bytes, Params], float] = measured_p50) -> GateReport:
    """Judge the searched model. Raises ValueError if results are missing or stale, RegistryError."""
    model, metrics = read_result(MODEL), json.loads(read_result(METRICS))
    with registry():
        champion = tracking.load_by_alias(params.publish.model, CHAMPION)
    md5, number = tracking.md5_of(model), champion.version if champion else None
    if champion and champion.md5 == md5:
        return GateReport(md5=md5, champion=number, against="itself", checks=())
    test, names = test_images(), read_classes(paths.CLASSES).names
    require_size(model, test)
    right = named_right(model, test, names, params.threads)
    require_fresh(metrics, float(right.mean()))
    if champion:
        accuracy, reference, against = beside_champion(champion, right, test, names, params.threads)
    else:
        accuracy, reference, against = float(right.mean()), metrics["baseline"]["accuracy"], "the baseline"
    checks = (
        Check(name="accuracy", value=accuracy, rule="at least", threshold=reference - params.publish.accuracy_margin),
        Check(
            name="latency_ms", value=measure(model, params), rule="at most", threshold=params.architecture.latency_ms
        ),
        Check(name="parity", value=recorded(metrics, "parity"), rule="at most", threshold=params.publish.parity),
        *quantisation_checks(model, metrics, float(right.mean()), params.publish.accuracy_margin),
    )
    return GateReport(md5=md5, champion=number, against=against, checks=checks)


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


def named_right(model: bytes, test: Split, names: tuple[str, ...], threads: int) -> Bool[np.ndarray, " n"]:
    """Of which test images the model gives the right class name; its own class list may differ from the data's."""
    own = np.array(classes_of(model) or names)
    said = own[onnx_logits(model, test.images, threads=threads).argmax(axis=1)]
    right: Bool[np.ndarray, " n"] = said == np.array(names)[test.labels]
    return right


def classes_of(model: bytes) -> tuple[str, ...]:
    """The class names that the file carries, none if it carries none."""
    return tuple(json.loads(read_metadata(model).get("classes", "[]")))


def require_size(model: bytes, test: Split) -> None:
    """Refuse a model that was trained before the images changed their size."""
    size, given = size_of(model), test.images.shape[1:]
    if size is not None and size != given:
        raise ValueError(f"{MODEL} takes images of {shown(size)}, {paths.TEST} has {shown(given)}; run `dvc repro`")


def require_fresh(metrics: dict[str, Any], accuracy: float) -> None:
    """Refuse records of another model or another test split."""
    recorded = metrics["searched"]["accuracy"]
    if abs(recorded - accuracy) > STALE:
        raise ValueError(
            f"{METRICS} says that {MODEL} has accuracy {recorded:.4f} on {paths.TEST}, but it has {accuracy:.4f}; "
            f"they are of different runs, bring them together with `dvc repro`"
        )


def recorded(metrics: dict[str, Any], name: str) -> float:
    """What `evaluate` found for the searched model; nan, which no gate passes, if it did not look."""
    return float(metrics["searched"].get(name, math.nan))


def quantisation_checks(model: bytes, metrics: dict[str, Any], accuracy: float, margin: float) -> tuple[Check, ...]:
    """A quantised file beside the float file it was made from: the baseline, quantised too, cannot tell."""
    if QUANTIZE not in read_metadata(model):
        return ()
    threshold = recorded(metrics, "float_accuracy") - margin
    return (Check(name="quantisation", value=accuracy, rule="at least", threshold=threshold),)


def beside_champion(
    champion: tracking.Shipped, right: Bool[np.ndarray, " n"], test: Split, names: tuple[str, ...], threads: int
) -> tuple[float, float, str]:
    """Accuracy of the model and of the champion on the test images of the classes that both know."""
    size = size_of(champion.model)
    if size is not None and size != test.images.shape[1:]:
        raise ValueError(
            f"champion version {champion.version} takes images of {shown(size)}, the data has "
            f"{shown(test.images.shape[1:])}; they cannot be compared, publish under another publish.model"
        )
    shared = np.isin(np.array(names)[test.labels], classes_of(champion.model) or names)
    if not shared.any():
        raise ValueError(
            f"champion version {champion.version} knows none of the data's classes; publish under another publish.model"
        )
    reference = named_right(champion.model, test, names, threads)
    against = f"champion version {champion.version} on {shared.sum()} of {len(shared)} test images"
    return float(right[shared].mean()), float(reference[shared].mean()), against


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
    model, name = read_result(MODEL), params.publish.model
    if tracking.md5_of(model) != report.md5:
        raise ValueError(f"{MODEL} changed after the gate judged it; run the gate again")
    proposed = candidate(model, params)
    with registry(), own_run(parent_run) as run:
        tracking.log_json(run, report.to_json(), "gate.json")
        if report.champion and not report.checks:
            return Published(version=report.champion, outcome="already champion", report=report)
        maker = tracking.find_run(f"dvc.out.{MODEL.as_posix()}", report.md5) or run
        number = tracking.register_model(name, proposed, maker)
        tracking.move_alias(name, CHALLENGER, number)
        tracking.tag_version(name, number, decision(report))
        tracking.tag_run(run, {"model": name, "model.version": number, "gate": decision(report)["gate"]})
        if not report.passed:
            return Published(version=number, outcome="refused", report=report)
        require_same(model, tracking.load_by_alias(name, CHALLENGER), params)
        tracking.move_alias(name, CHAMPION, number)
        return Published(version=number, outcome="published", report=report)


@contextmanager
def registry() -> Iterator[None]:
    """Turn every way in which MLflow fails into one sentence."""
    try:
        yield
    except tracking.ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RegistryError(f"the MLflow registry cannot be used ({reason}); nothing was promoted") from error


@contextmanager
def own_run(parent_run: str | None) -> Iterator[str]:
    """The given run, or a new one for as long as the block lasts."""
    if parent_run is not None:
        yield parent_run
        return
    with tracking.parent_run("publish", {}) as run:
        if run is None:
            raise RegistryError("the MLflow registry cannot be used; nothing was promoted")
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


def decision(report: GateReport) -> dict[str, str]:
    """The gate's report as tags of the model version."""
    checks = {f"gate.{check.name}": f"{'passed' if check.passed else 'refused'}: {check}" for check in report.checks}
    return {"gate": "passed" if report.passed else "refused", "gate.against": report.against} | checks


def require_same(model: bytes, loaded: tracking.Shipped | None, params: Params) -> None:
    """The model as users will load it must be the model that was judged."""
    images = test_images().images[:COMPARED]
    same = loaded is not None and np.array_equal(
        onnx_logits(loaded.model, images, threads=params.threads), onnx_logits(model, images, threads=params.threads)
    )
    if not same or loaded is None or tracking.md5_of(loaded.model) != tracking.md5_of(model):
        raise RegistryError(f"the registry gives back another model than {MODEL}; nothing was promoted")


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
        f"budget {params.architecture.latency_ms:.3f} ms",
        *quantisation_lines(searched, measured),
        *[f"gate      {'passed' if check.passed else 'REFUSED'}: {check}" for check in report.checks],
        f"gate      compared with {report.against}",
        "look      mlflow/serve, then http://127.0.0.1:5000",
    ]
    return "\n".join(lines)


def quantisation_lines(searched: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """What a quantised file gained and lost; nothing for a float one."""
    if "agreement" not in searched:
        return []
    return [
        f"int8      float accuracy {searched['float_accuracy']:.2%}, float latency {measured['float_p50_ms']:.3f} ms, "
        f"the same class on {searched['agreement']:.2%} of the images"
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flows.publish",
        description="Judge the searched model in results/ and publish it in MLflow's registry if it passes the gate.",
        epilog="Exit codes: 0 published or already champion, 1 the registry cannot be used, 2 bad input, "
        "3 refused by the gate. Settings: publish, architecture.latency_ms and latency in params.yaml.",
    )
    parser.parse_args(arguments)
    try:
        params = load_params()
        published = publish(params, None, gate(params))
    except ValueError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except RegistryError as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    print(summary(params, published))
    return 3 if published.outcome == "refused" else 0


if __name__ == "__main__":
    sys.exit(main())
