"""Turn measurements into checks, and checks into the gate's verdict. This module reads and writes no files.

lost, won   as in components/shipping/comparison.py: images that only the reference, or only the model, gets right
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from components.architecture.timing import Measurement
from components.settings.gate import Gate
from components.shipping.comparison import ClassLoss, Paired, chance, class_losses, loss_bound, mcnemar, pair

Rule = Literal["at least", "at most", "is"]
MAX_NAMED = 3
"""Largest number of classes that a check's detail names."""
DIGITS = 12
"""Decimal digits of a share of images; further digits are rounding errors."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of the gate: a value, a threshold, and the rule that relates them."""

    name: str
    value: float | str
    rule: Rule
    threshold: float | str
    detail: str = ""
    """What the value was computed from."""

    @property
    def passed(self) -> bool:
        """Whether the value keeps the rule; False if the value is nan."""
        return RULES[self.rule](self.value, self.threshold)

    def __str__(self) -> str:
        text = f"{self.name} {value_text(self.value)}, {self.rule} {value_text(self.threshold)}"
        return f"{text} ({self.detail})" if self.detail else text


RULES: Mapping[Rule, Callable[[Any, Any], bool]] = {
    "at least": lambda value, threshold: value >= threshold,
    "at most": lambda value, threshold: value <= threshold,
    "is": lambda value, threshold: value == threshold,
}


def value_text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def short_text(value: float | str) -> str:
    """Format a value for a table; a hash is cut to its first digits."""
    text = value_text(value)
    return f"{text[:8]}…" if re.fullmatch(r"[0-9a-f]{32}", text) else text


@dataclass(frozen=True, kw_only=True)
class Score:
    """The number of images that a model classified correctly, and the number of all images."""

    right: int
    images: int


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The gate's findings; `checks` is empty if the model is the champion already and there is nothing to decide."""

    md5: str
    """md5 of the file that was judged."""
    against: str
    """What the model is compared with, and on which images."""
    reference: Score | None = None
    """The reference's score on those images; None if there is no comparison."""
    score: Score | None = None
    """The model's score on all test images; None if it was not judged."""
    champion: str | None
    """The champion's version, or None if there is no champion yet."""
    added: tuple[str, ...] = ()
    """Classes that the reference does not know, on which it cannot be compared."""
    removed: tuple[str, ...] = ()
    """Classes of the reference that the data no longer has."""
    device: str = ""
    """The device on which the latency was measured; its provider is verified."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def verdict(self) -> str:
        """Return the verdict in a few words."""
        if not self.checks:
            return "the champion already"
        return f"{sum(check.passed for check in self.checks)} of {len(self.checks)} checks passed"

    def with_checks(self, *checks: Check) -> "GateReport":
        return replace(self, checks=(*self.checks, *checks))

    def to_json(self) -> dict[str, Any]:
        checks = [finite_values(asdict(check)) | {"passed": check.passed} for check in self.checks]
        return asdict(self) | {"checks": checks, "passed": self.passed}

    def to_markdown(self) -> str:
        """Return the checks as a Markdown table."""
        if not self.checks:
            return "The champion already: nothing to decide."
        rows = [
            f"| {check.name} | {short_text(check.value)} | {check.rule} {short_text(check.threshold)} | "
            f"{'passed' if check.passed else '**REFUSED**'} | {check.detail} |"
            for check in self.checks
        ]
        head = ["| check | value | threshold | verdict | |", "| --- | --- | --- | --- | --- |"]
        return "\n".join([f"Compared with {self.against}.", "", *head, *rows])


def finite_values(values: dict[str, Any]) -> dict[str, Any]:
    """Replace nan and infinity by their names, because JSON cannot hold them."""
    return {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}


def without_rounding(share: float) -> float:
    """Remove rounding errors, so that a value at its limit passes: 0.8 - 0.7 in floats is not 0.1."""
    return round(share, DIGITS)


def accuracy_checks(
    right: Bool[np.ndarray, " n"],
    reference: Bool[np.ndarray, " n"],
    actual: np.ndarray,
    settings: Gate,
    rng: np.random.Generator,
) -> tuple[Check, ...]:
    """Check that the model is not worse than the reference: in total, beyond chance, and on each class.

    `actual` holds each image's class name.
    """
    paired = pair(right, reference)
    threshold = without_rounding(float(reference.mean()) - settings.margin)
    accuracy = Check(name="accuracy", value=without_rounding(float(right.mean())), rule="at least", threshold=threshold)
    tested = (TESTS[settings.test](paired, settings, rng),) if settings.alpha > 0 else ()
    by_class = (class_check(class_losses(right, reference, actual), settings),) if settings.class_alpha > 0 else ()
    return (accuracy, *tested, *by_class)


def class_check(losses: Sequence[ClassLoss], settings: Gate) -> Check:
    """Refuse the model if the loss on a class is too large for chance, given the number of classes.

    `losses` is sorted, the most significant first.
    """
    worse = [loss for loss in losses if loss.p < settings.class_alpha] or losses[:1]
    named = "; ".join(f"class {loss.name}: {loss.paired}" for loss in worse[:MAX_NAMED])
    more = f"; and {len(worse) - MAX_NAMED} more classes" if len(worse) > MAX_NAMED else ""
    small = sum(len(losses) * 0.5**loss.paired.images >= settings.class_alpha for loss in losses)
    blind = f"; {small} of them with too few images to tell" if small else ""
    return Check(
        name="class_p",
        value=losses[0].p,
        rule="at least",
        threshold=settings.class_alpha,
        detail=f"{named}{more}; adjusted for {len(losses)} classes{blind}",
    )


def chance_checks(predicted: np.ndarray, actual: np.ndarray, settings: Gate) -> tuple[Check, ...]:
    """Check that the model's answers on all test images agree with the classes more often than by chance.

    The first model of a name passes on accuracy with this alone: it replaces no other, so it need not be better than a
    baseline that does not ship. `predicted` holds the class name that the model gave each image, `actual` the true one.
    """
    if settings.alpha == 0:
        return ()
    right = int((predicted == actual).sum())
    detail = f"{right} of {len(actual)} images right, by answers that may have been guesses"
    return (
        Check(
            name="chance_p", value=chance(predicted, actual), rule="at most", threshold=settings.alpha, detail=detail
        ),
    )


def mcnemar_check(paired: Paired, settings: Gate, rng: np.random.Generator) -> Check:
    """Refuse the model if its loss is too large for chance."""
    value = mcnemar(paired)
    return Check(name="mcnemar_p", value=value, rule="at least", threshold=settings.alpha, detail=str(paired))


def bootstrap_check(paired: Paired, settings: Gate, rng: np.random.Generator) -> Check:
    """Refuse the model unless the bootstrap shows that its loss stays within the margin."""
    value = loss_bound(paired, settings.alpha, rng)
    return Check(name="loss_bound", value=value, rule="at most", threshold=settings.margin, detail=str(paired))


TESTS: Mapping[str, Callable[[Paired, Gate, np.random.Generator], Check]] = {
    "mcnemar": mcnemar_check,
    "bootstrap": bootstrap_check,
}


def latency_checks(measured: Measurement, budget_ms: float, settings: Gate) -> tuple[Check, ...]:
    """Check the median and the tail of the latency in a warm session; judge.py measures up to three times before it
    believes that one is too long."""
    tail = settings.p99 * budget_ms
    return (
        Check(name="latency_quiet_ms", value=measured.quiet_ms, rule="at most", threshold=budget_ms),
        Check(name="latency_p99_ms", value=measured.p99_ms, rule="at most", threshold=tail),
    )


def size_checks(count: int, limit: int | None) -> tuple[Check, ...]:
    """Check the size of the file that ships, in bytes."""
    return () if limit is None else (Check(name="file_bytes", value=count, rule="at most", threshold=limit),)


def parity_check(difference: float, settings: Gate) -> Check:
    """Check the difference between Torch's and ONNX Runtime's results."""
    return Check(name="parity", value=difference, rule="at most", threshold=settings.parity)


def quantisation_check(accuracy: float, float_accuracy: float, settings: Gate) -> Check:
    """Compare a quantised file with its own float file: the baseline is quantised too, so it cannot show a loss."""
    threshold = without_rounding(float_accuracy - settings.margin)
    return Check(name="quantisation", value=without_rounding(accuracy), rule="at least", threshold=threshold)


def withdrawal_checks(withdrawn: str | None) -> tuple[Check, ...]:
    """Refuse a model that a person rolled back; `withdrawn` is the time of the rollback, None if there was none."""
    if withdrawn is None:
        return ()
    detail = "delete the version's tag rollback.at in MLflow to have it judged again"
    return (Check(name="rolled_back", value=withdrawn, rule="is", threshold="never", detail=detail),)


def registry_checks(
    judged: str, loaded: str, logits: Float[np.ndarray, "n k"], loaded_logits: Float[np.ndarray, "n k"] | None
) -> tuple[Check, ...]:
    """Check by md5 and by logits that the file which users load through the alias is the one that was judged."""
    same_shape = loaded_logits is not None and loaded_logits.shape == logits.shape
    difference = float(np.abs(loaded_logits - logits).max()) if same_shape else math.nan
    return (
        Check(name="registry_md5", value=loaded, rule="is", threshold=judged),
        Check(name="registry_logits", value=difference, rule="at most", threshold=0.0, detail=f"{len(logits)} images"),
    )
