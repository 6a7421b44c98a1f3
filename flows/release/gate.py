"""The gate's decisions: from what was measured to checks, and from checks to a verdict. Reads and writes nothing.

lost, won   as in components/shipping/comparison.py: images that the reference alone, or the model alone, gets right
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
NAMED = 3
"""Classes that a check's detail names."""
DIGITS = 12
"""Of a share of images; more are rounding."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing the gate looks at."""

    name: str
    value: float | str
    rule: Rule
    threshold: float | str
    detail: str = ""
    """What the value was found in."""

    @property
    def passed(self) -> bool:
        """Also False if the value is not a number."""
        return RULES[self.rule](self.value, self.threshold)

    def __str__(self) -> str:
        said = f"{self.name} {shown(self.value)}, {self.rule} {shown(self.threshold)}"
        return f"{said} ({self.detail})" if self.detail else said


RULES: Mapping[Rule, Callable[[Any, Any], bool]] = {
    "at least": lambda value, threshold: value >= threshold,
    "at most": lambda value, threshold: value <= threshold,
    "is": lambda value, threshold: value == threshold,
}


def shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def brief(value: float | str) -> str:
    """For tables: a hash by its first digits."""
    text = shown(value)
    return f"{text[:8]}…" if re.fullmatch(r"[0-9a-f]{32}", text) else text


@dataclass(frozen=True, kw_only=True)
class Score:
    """How often a model was right."""

    right: int
    images: int


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What the gate found; nothing to decide (no checks) if the model is the champion already."""

    md5: str
    """Of the file that was judged."""
    against: str
    """What it is compared with, on which images."""
    reference: Score | None = None
    """Of what it is compared with, on those images; None if nothing is."""
    score: Score | None = None
    """Of the model, on all test images; None if nothing was judged."""
    champion: str | None
    """The champion's version, None before the first."""
    added: tuple[str, ...] = ()
    """Classes that the reference does not know: it cannot be compared there."""
    removed: tuple[str, ...] = ()
    """Classes of the reference that the data no longer has."""
    device: str = ""
    """What the latency was measured on, the provider verified."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def verdict(self) -> str:
        """In a few words."""
        if not self.checks:
            return "the champion already"
        return f"{sum(check.passed for check in self.checks)} of {len(self.checks)} checks passed"

    def with_checks(self, *checks: Check) -> "GateReport":
        return replace(self, checks=(*self.checks, *checks))

    def to_json(self) -> dict[str, Any]:
        checks = [finite(asdict(check)) | {"passed": check.passed} for check in self.checks]
        return asdict(self) | {"checks": checks, "passed": self.passed}

    def to_markdown(self) -> str:
        """A table for people."""
        if not self.checks:
            return "The champion already: nothing to decide."
        rows = [
            f"| {check.name} | {brief(check.value)} | {check.rule} {brief(check.threshold)} | "
            f"{'passed' if check.passed else '**REFUSED**'} | {check.detail} |"
            for check in self.checks
        ]
        head = ["| check | value | threshold | verdict | |", "| --- | --- | --- | --- | --- |"]
        return "\n".join([f"Compared with {self.against}.", "", *head, *rows])


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no nan: a value that could not be measured is its name."""
    return {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}


def exact(share: float) -> float:
    """Without the rounding of 0.8 - 0.7, which is above 0.1: what is at its limit passes."""
    return round(share, DIGITS)


def accuracy_checks(
    right: Bool[np.ndarray, " n"],
    reference: Bool[np.ndarray, " n"],
    actual: np.ndarray,
    settings: Gate,
    rng: np.random.Generator,
) -> tuple[Check, ...]:
    """Not worse than the champion: in all, beyond chance, on any class. `actual`: each image's class name."""
    paired = pair(right, reference)
    threshold = exact(float(reference.mean()) - settings.margin)
    accuracy = Check(name="accuracy", value=exact(float(right.mean())), rule="at least", threshold=threshold)
    tested = (TESTS[settings.test](paired, settings, rng),) if settings.alpha > 0 else ()
    by_class = (class_check(class_losses(right, reference, actual), settings),) if settings.class_alpha > 0 else ()
    return (accuracy, *tested, *by_class)


def class_check(losses: Sequence[ClassLoss], settings: Gate) -> Check:
    """Refused if the loss of a class cannot be chance among so many classes. `losses`: the clearest first."""
    worse = [loss for loss in losses if loss.p < settings.class_alpha] or losses[:1]
    named = "; ".join(f"class {loss.name}: {loss.paired}" for loss in worse[:NAMED])
    more = f"; and {len(worse) - NAMED} more classes" if len(worse) > NAMED else ""
    small = sum(len(losses) * 0.5**loss.paired.images >= settings.class_alpha for loss in losses)
    blind = f"; {small} of them with too few images to tell" if small else ""
    return Check(
        name="class_p",
        value=losses[0].p,
        rule="at least",
        threshold=settings.class_alpha,
        detail=f"{named}{more}; adjusted for {len(losses)} classes{blind}",
    )


def chance_checks(said: np.ndarray, actual: np.ndarray, settings: Gate) -> tuple[Check, ...]:
    """The model has learnt something: on all test images its answers agree with the classes more than by chance.

    All that is asked of the accuracy of the first model of a name: it replaces nobody, so it need not be better than a
    baseline that does not ship. `said`, `actual`: each image's class name.
    """
    if settings.alpha == 0:
        return ()
    right = int((said == actual).sum())
    detail = f"{right} of {len(actual)} images right, by answers that may have been guesses"
    return (
        Check(name="chance_p", value=chance(said, actual), rule="at most", threshold=settings.alpha, detail=detail),
    )


def mcnemar_check(paired: Paired, settings: Gate, rng: np.random.Generator) -> Check:
    """Refused if the loss cannot be chance."""
    value = mcnemar(paired)
    return Check(name="mcnemar_p", value=value, rule="at least", threshold=settings.alpha, detail=str(paired))


def bootstrap_check(paired: Paired, settings: Gate, rng: np.random.Generator) -> Check:
    """Refused unless the loss is shown to stay within the margin."""
    value = loss_bound(paired, settings.alpha, rng)
    return Check(name="loss_bound", value=value, rule="at most", threshold=settings.margin, detail=str(paired))


TESTS: Mapping[str, Callable[[Paired, Gate, np.random.Generator], Check]] = {
    "mcnemar": mcnemar_check,
    "bootstrap": bootstrap_check,
}


def latency_checks(measured: Measurement, budget_ms: float, settings: Gate) -> tuple[Check, ...]:
    """Median and tail of a warm session."""
    tail = settings.p99 * budget_ms
    return (
        Check(name="latency_quiet_ms", value=measured.quiet_ms, rule="at most", threshold=budget_ms),
        Check(name="latency_p99_ms", value=measured.p99_ms, rule="at most", threshold=tail),
    )


def size_checks(count: int, limit: int | None) -> tuple[Check, ...]:
    """Bytes of the file that ships."""
    return () if limit is None else (Check(name="file_bytes", value=count, rule="at most", threshold=limit),)


def parity_check(difference: float, settings: Gate) -> Check:
    """Torch and ONNX Runtime."""
    return Check(name="parity", value=difference, rule="at most", threshold=settings.parity)


def quantisation_check(accuracy: float, float_accuracy: float, settings: Gate) -> Check:
    """A quantised file beside the float file it was made from: the baseline, quantised too, cannot tell."""
    threshold = exact(float_accuracy - settings.margin)
    return Check(name="quantisation", value=exact(accuracy), rule="at least", threshold=threshold)


def withdrawal_checks(withdrawn: str | None) -> tuple[Check, ...]:
    """A model that a person took back does not come back by itself; `withdrawn`: when that was, None: never."""
    if withdrawn is None:
        return ()
    detail = "delete the version's tag rollback.at in MLflow to have it judged again"
    return (Check(name="rolled_back", value=withdrawn, rule="is", threshold="never", detail=detail),)


def registry_checks(
    judged: str, loaded: str, logits: Float[np.ndarray, "n k"], loaded_logits: Float[np.ndarray, "n k"] | None
) -> tuple[Check, ...]:
    """What users load through the alias is the file that was judged: its md5, and what it computes."""
    same_shape = loaded_logits is not None and loaded_logits.shape == logits.shape
    difference = float(np.abs(loaded_logits - logits).max()) if same_shape else math.nan
    return (
        Check(name="registry_md5", value=loaded, rule="is", threshold=judged),
        Check(name="registry_logits", value=difference, rule="at most", threshold=0.0, detail=f"{len(logits)} images"),
    )
