"""Figures of a finished model, by hand."""

import math

import numpy as np
import pytest

from components.shipping.evaluation import agreement, per_class, wilson_interval


def test_wilson_interval_of_a_textbook_case() -> None:
    low, high = wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


@pytest.mark.parametrize(("correct", "count"), [(0, 5), (5, 5), (1, 1)])
def test_the_interval_stays_within_bounds_and_is_not_empty_at_the_ends(correct: int, count: int) -> None:
    low, high = wilson_interval(correct, count)
    assert 0 <= low < high <= 1
    assert low <= correct / count <= high


def test_a_class_without_images_or_predictions_has_no_recall_or_precision() -> None:
    first, second, third = per_class(np.array([0, 1, 1]), np.array([0, 0, 1]), ["a", "b", "c"])
    assert (first.recall, first.precision, first.images) == (0.5, 1.0, 2)
    assert (second.recall, second.precision) == (1.0, 0.5)
    assert third.images == 0
    assert math.isnan(third.recall)
    assert math.isnan(third.precision)


def test_two_models_agree_where_their_largest_logits_are_of_one_class() -> None:
    first = np.array([[3.0, 1.0], [0.0, 1.0], [2.0, 0.0], [0.0, 5.0]])
    second = np.array([[0.2, 0.1], [9.0, 1.0], [0.1, 0.0], [0.0, 0.1]])
    assert agreement(first, second) == 0.75
