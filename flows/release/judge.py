"""Measure, for the gate, the exact file that would ship, and compare it with the model in service."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from components.architecture.timing import Measurement, measure_model
from components.data.store import CONTENTS, Split, open_split, read_classes, read_contents
from components.settings.params import Params
from components.settings.variants import BASELINE, SEARCHED
from components.shipping.evaluation import onnx_logits
from components.shipping.export import read_metadata
from components.shipping.quantisation import QUANTIZE
from components.streams import stream
from flows.checkout import files, paths, pipeline
from flows.release import gate, registry, trained_on
from flows.release.gate import GateReport
from flows.release.registry import CHAMPION
from flows.tracking import models

MODEL = paths.MODEL
BASELINE_MODEL = paths.TRAINED / BASELINE / paths.SHIPPED
METRICS = paths.METRICS
STALE = 0.005
"""Largest difference between a recorded accuracy and one measured again on another machine (our choice)."""
MAX_LISTED = 10
"""Largest number of class names in a sentence; gate.json has them all."""
ATTEMPTS = 3
"""Number of measurements after which a latency that is too long counts."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The model that a new model is compared with."""

    name: str
    model: bytes
    ships: bool
    """Whether it is in service. The first model of a name is only shown beside the baseline and need not be better."""


def measure_quietest(measure: Callable[[], Measurement], params: Params) -> Measurement:
    """Measure until a latency passes, ATTEMPTS times at most: other work on the machine can only lengthen it."""
    for _ in range(ATTEMPTS):
        time = measure()
        if all(check.passed for check in gate.latency_checks(time, params.budget.first, params.gate)):
            break
    return time


def measure_here(model: bytes, params: Params) -> Measurement:
    """Measure the file's latency in a warm session on this machine; its provider is verified."""
    return measure_model(model, params.latency, params.evaluate.repeats)


def judge(params: Params, measure: Callable[[bytes, Params], Measurement] = measure_here) -> GateReport:
    """Judge the searched model. Raises ValueError if results are missing or stale, RegistryError if MLflow fails."""
    model, metrics = read_result(MODEL), json.loads(read_result(METRICS))
    md5 = files.md5_of(model)
    with registry.registry_errors():
        champion = models.load_by_alias(params.publish.model, CHAMPION)
        withdrawn = registry.withdrawn_at(params.publish.model, md5)
    number = champion.version if champion else None
    if champion:
        registry.require_intact(champion)
        if champion.md5 == md5:
            return GateReport(md5=md5, champion=number, against="itself", checks=())
    test, names = test_images(), read_classes(paths.CLASSES).names
    require_size(model, test)
    predicted, actual = predicted_names(model, test, names, params.threads), np.array(names)[test.labels]
    right: Bool[np.ndarray, " n"] = predicted == actual
    require_fresh(metrics, md5, float(right.mean()))
    reference = reference_of(champion, params)
    report = compare(reference, right, test, names, params) if reference else NOTHING_TO_COMPARE
    time = measure_quietest(lambda: measure(model, params), params)
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
            *gate.chance_checks(predicted, actual, params.gate),
            *report.checks,
            *gate.latency_checks(time, params.budget.first, params.gate),
            *gate.size_checks(len(model), params.architecture.max_file_bytes),
            gate.parity_check(recorded_metric(metrics, "parity"), params.gate),
            *quantisation_checks(model, metrics, float(right.mean()), params),
            *gate.withdrawal_checks(withdrawn),
        ),
    )


def reference_of(champion: models.Shipped | None, params: Params) -> Reference | None:
    """Return what the model is compared with: the champion, else the baseline, if it was trained."""
    if champion:
        return Reference(name=f"champion version {champion.version}", model=champion.model, ships=True)
    if BASELINE in params.train.variants:
        return Reference(name="the baseline, which decides nothing,", model=read_result(BASELINE_MODEL), ships=False)
    return None


def read_result(path: Path) -> bytes:
    """Return the content of a file that a stage writes. Raises ValueError if it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run `dvc repro` first") from None


def test_images() -> Split:
    """Open the test split that `prepare` wrote. Raises ValueError if it is missing."""
    try:
        return open_split(paths.TEST)
    except FileNotFoundError:
        raise ValueError(f"{paths.TEST} is missing; run `dvc repro` first") from None


def predicted_names(model: bytes, test: Split, names: tuple[str, ...], threads: int) -> np.ndarray:
    """Return the class name that the model gives each test image; its class list may differ from the data's."""
    own = np.array(classes_of(model) or names)
    predicted: np.ndarray = own[onnx_logits(model, test.images, threads=threads).argmax(axis=1)]
    return predicted


def classes_of(model: bytes) -> tuple[str, ...]:
    """Return the class names in the file's metadata, or an empty tuple if it has none."""
    return tuple(json.loads(read_metadata(model).get("classes", "[]")))


def require_size(model: bytes, test: Split) -> None:
    """Raise ValueError if the model was trained on images of another size."""
    size, given = size_of(model), test.images.shape[1:]
    if size is not None and size != given:
        raise ValueError(
            f"{MODEL} takes images of {size_text(size)}, {paths.TEST} has {size_text(given)}; run `dvc repro`"
        )


def require_fresh(metrics: dict[str, Any], md5: str, accuracy: float) -> None:
    """Raise ValueError if the recorded metrics belong to another model or another test split."""
    recorded, lock = metrics["accuracy"], pipeline.locked_stage(f"evaluate@{SEARCHED}")
    read = pipeline.hashes(lock, "deps").get(MODEL.as_posix(), md5) if lock else md5
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


def recorded_metric(metrics: dict[str, Any], name: str) -> float:
    """Return what `evaluate` measured for the searched model, or nan, which passes no check, if it did not."""
    return float(metrics.get(name, math.nan))


def quantisation_checks(
    model: bytes, metrics: dict[str, Any], accuracy: float, params: Params
) -> tuple[gate.Check, ...]:
    """Return the check of a quantised file against its float file; none if the file is not quantised."""
    if QUANTIZE not in read_metadata(model):
        return ()
    return (gate.quantisation_check(accuracy, recorded_metric(metrics, "float_accuracy"), params.gate),)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of the model with a reference."""

    against: str
    reference: gate.Score | None
    added: tuple[str, ...]
    removed: tuple[str, ...]
    checks: tuple[gate.Check, ...]


NOTHING_TO_COMPARE = Comparison(
    against="nothing: it is the first of its name, and no baseline was trained",
    reference=None,
    added=(),
    removed=(),
    checks=(),
)


def compare(
    reference: Reference, right: Bool[np.ndarray, " n"], test: Split, names: tuple[str, ...], params: Params
) -> Comparison:
    """Compare model and reference on the test images whose classes both know.

    `right` says for each test image whether the model's answer is correct. Raises ValueError if they share no images.
    """
    size = size_of(reference.model)
    if size is not None and size != test.images.shape[1:]:
        raise ValueError(
            f"{reference.name} takes images of {size_text(size)}, the data has {size_text(test.images.shape[1:])}; "
            f"they cannot be compared, publish under another publish.model"
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
    answers: Bool[np.ndarray, " n"] = predicted_names(reference.model, test, names, params.threads) == actual
    rng = stream(params.seed, "gate")
    added, removed = tuple(sorted(set(names) - set(known))), tuple(sorted(set(known) - set(names)))
    changed = "".join(
        f"; classes {what}: {list_classes(classes)}"
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
    """Return which of the `count` test images the reference was not trained on, and a remark if these are not all.

    Without a record of its training, all images count: that can only favour the reference over the new model.
    """
    every: Bool[np.ndarray, " n"] = np.ones(count, dtype=bool)
    if not reference.ships:
        return every, ""  # trained beside the model, on the same images
    with registry.registry_errors():
        known = trained_on.trained_on(files.md5_of(reference.model))
    if known is None:
        return every, "; whether it was trained on any of them is not recorded"
    unseen = np.array([content not in known for content in read_contents(paths.TEST / CONTENTS)])
    return unseen, "" if unseen.all() else f"; it was trained on {(~unseen).sum()} of them"


def list_classes(classes: tuple[str, ...]) -> str:
    """Return the first few class names and how many more there are."""
    more = f" and {len(classes) - MAX_LISTED} more" if len(classes) > MAX_LISTED else ""
    return ", ".join(classes[:MAX_LISTED]) + more


def size_of(model: bytes) -> tuple[int, int, int] | None:
    """Return (height, width, channels) of the images that the file takes, or None if its metadata does not say."""
    noted = read_metadata(model)
    if not {"size", "channels"} <= noted.keys():
        return None
    return int(noted["size"]), int(noted["size"]), int(noted["channels"])


def size_text(size: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in size)
