"""What the gate decides from what was measured."""

import json
from dataclasses import replace

import numpy as np
import pytest

from components.settings.gate import Gate
from components.shipping.comparison import Paired
from flows.release.gate import (
    TESTS,
    Check,
    GateReport,
    accuracy_checks,
    chance_checks,
    quantisation_check,
    registry_checks,
    withdrawal_checks,
)

GATE = Gate(test="mcnemar", alpha=0.05, margin=0.01, class_alpha=0.05)


@pytest.mark.parametrize(
    ("value", "rule", "threshold", "passed"),
    [
        (0.9, "at least", 0.9, True),
        (0.9, "at least", 0.91, False),
        (1.0, "at most", 1.0, True),
        (1.1, "at most", 1.0, False),
        (float("nan"), "at least", 0.0, False),
        (float("nan"), "at most", 1.0, False),
        ("abc", "is", "abc", True),
        ("abc", "is", "never", False),
    ],
)
def test_a_check_passes_at_its_threshold_and_never_without_a_number(value, rule, threshold, passed) -> None:  # type: ignore[no-untyped-def]
    assert Check(name="x", value=value, rule=rule, threshold=threshold).passed is passed


@pytest.mark.parametrize(
    ("images", "lost", "won", "mcnemar", "bootstrap"),
    [
        (100, 3, 3, True, False),  # equally good, too few images to show it
        (100, 8, 0, False, False),
        (100_000, 900, 500, False, True),  # a loss beyond chance, within the margin
        (100_000, 5000, 3000, False, False),
        (100, 0, 3, True, True),
    ],
)
def test_mcnemar_asks_for_a_proof_of_loss_and_bootstrap_for_a_proof_that_there_is_none(
    images: int, lost: int, won: int, mcnemar: bool, bootstrap: bool
) -> None:
    counts = Paired(images=images, lost=lost, won=won)
    found = {name: test(counts, GATE, np.random.default_rng(0)).passed for name, test in TESTS.items()}
    assert found == {"mcnemar": mcnemar, "bootstrap": bootstrap}


@pytest.mark.parametrize(("lost", "passed"), [(3, True), (8, False)])
def test_without_alpha_the_margin_alone_decides_and_a_class_is_judged_by_what_its_own_images_show(
    lost: int, passed: bool
) -> None:
    """3 of 15 images of one class refused the first model of a newcomer's photos, by a fixed limit."""
    actual = np.repeat(["a", "b"], [85, 15])
    reference, right = np.ones(100, dtype=bool), np.arange(100) < 100 - lost
    settings = replace(GATE, alpha=0.0, margin=0.08)
    accuracy, worst = accuracy_checks(right, reference, actual, settings, np.random.default_rng(0))
    assert (accuracy.name, accuracy.value, accuracy.passed) == ("accuracy", 1 - lost / 100, True)
    assert (worst.name, worst.value, worst.passed) == ("class_p", pytest.approx(2 * 0.5**lost), passed)
    assert worst.detail == f"class b: {lost} lost and 0 won of 15 images; adjusted for 2 classes"


def test_every_class_that_is_worse_is_named_as_far_as_a_line_goes() -> None:
    actual = np.repeat(list("abcdef"), 20)
    checks = accuracy_checks(actual == "f", np.ones(120, dtype=bool), actual, GATE, np.random.default_rng(0))
    assert [check.name for check in checks] == ["accuracy", "mcnemar_p", "class_p"]
    assert checks[-1].detail.count("20 lost and 0 won of 20 images") == 3
    assert checks[-1].detail.endswith("; and 2 more classes; adjusted for 6 classes")


def test_without_class_alpha_no_class_is_judged() -> None:
    actual, wrong = np.repeat(["a", "b"], 20), np.zeros(40, dtype=bool)
    settings = replace(GATE, class_alpha=0.0)
    checks = accuracy_checks(wrong, ~wrong, actual, settings, np.random.default_rng(0))
    assert [check.name for check in checks] == ["accuracy", "mcnemar_p"]


def test_a_model_has_to_have_learnt_something_which_a_constant_answer_has_not() -> None:
    actual = np.repeat(["ok", "bad"], [396, 4])
    rng = np.random.default_rng(0)
    finds_the_rare = np.where(rng.random(400) < 0.03, "bad", actual)  # right less often than to say ok every time
    for said, passed in ((finds_the_rare, True), (np.repeat("ok", 400), False), (rng.permutation(actual), False)):
        (check,) = chance_checks(said, actual, GATE)
        assert (check.name, check.threshold, check.passed) == ("chance_p", 0.05, passed)
    assert check.detail == f"{(said == actual).sum()} of 400 images right, by answers that may have been guesses"
    assert chance_checks(actual, actual, replace(GATE, alpha=0.0)) == ()


def test_classes_of_which_too_few_images_are_there_to_tell_are_counted() -> None:
    actual = np.repeat(["a", "b"], [40, 5])
    checks = accuracy_checks(actual != "b", np.ones(45, dtype=bool), actual, GATE, np.random.default_rng(0))
    assert checks[-1].detail.endswith("adjusted for 2 classes; 1 of them with too few images to tell")


def test_a_loss_at_its_limit_passes_whatever_floats_round_to() -> None:
    """0.8 - 0.7 > 0.1, and 0.93 - 0.01 > 0.92."""
    reference, right = np.arange(10) < 8, np.arange(10) < 7
    settings = replace(GATE, alpha=0.0, margin=0.1, class_alpha=0.0)
    checks = accuracy_checks(right, reference, np.repeat("a", 10), settings, np.random.default_rng(0))
    assert [check.passed for check in checks] == [True]
    assert all(quantisation_check(n / 100, (n + 1) / 100, replace(GATE, margin=0.01)).passed for n in range(100))


@pytest.mark.parametrize(
    ("md5", "logits", "refused"),
    [
        ("1", [[1.0, 2.0]], set()),
        ("1", [[1.0, 2.0000002]], {"registry_logits"}),
        ("2", [[1.0, 2.0]], {"registry_md5"}),
        ("2", [[1.0, 2.0, 3.0]], {"registry_md5", "registry_logits"}),
        ("none", None, {"registry_md5", "registry_logits"}),
    ],
)
def test_what_the_alias_gives_must_be_the_same_file_with_the_same_logits(
    md5: str, logits: list[list[float]] | None, refused: set[str]
) -> None:
    loaded = None if logits is None else np.array(logits)
    checks = registry_checks("1", md5, np.array([[1.0, 2.0]]), loaded)
    assert {check.name for check in checks if not check.passed} == refused


def test_a_decision_is_json_whatever_was_measured() -> None:
    checks = (Check(name="parity", value=float("nan"), rule="at most", threshold=1e-3), *withdrawal_checks("2026"))
    report = GateReport(md5="1", against="the baseline", champion=None, checks=checks)
    text = json.dumps(report.to_json(), allow_nan=False)
    assert [(check["value"], check["passed"]) for check in json.loads(text)["checks"]] == [
        ("nan", False),
        ("2026", False),
    ]
    assert withdrawal_checks(None) == ()
