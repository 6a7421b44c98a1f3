"""The benchmark's own arithmetic, by hand."""

import numpy as np
import pytest

from components.architecture.space import parse_architecture, space_of
from tests.benchmarks.harness import Row
from tests.benchmarks.latency_prediction import CLASSES, HELD_OUT, SPACE, draw, judge, table

SPACE_OF_ALL = space_of(SPACE, CLASSES)


def test_errors_are_in_percent_and_ranks_count_pairs() -> None:
    error, rho, tau = judge([1.1, 1.8, 4.0, 3.0], [1.0, 2.0, 3.2, 4.0])
    assert error == pytest.approx((10 + 10 + 25 + 25) / 4)
    assert rho == pytest.approx(1 - 6 * 2 / (4 * 15))  # two ranks are off by one
    assert tau == pytest.approx((5 - 1) / 6)  # one of six pairs is out of order


def test_held_out_networks_are_new_distinct_and_of_all_sizes() -> None:
    first = draw(SPACE_OF_ALL, set(), np.random.default_rng(0))
    known = set(first[:3])
    names = draw(SPACE_OF_ALL, known, np.random.default_rng(0))
    assert len(set(names)) == len(names) == HELD_OUT
    assert not known & set(names)
    identities = [parse_architecture(SPACE_OF_ALL, name).count("identity") for name in names]
    assert min(identities) == 0
    assert max(identities) >= 4


def row(role: str, flops: float, predicted: float, measured: float, repeat: float, exported: str = "parts") -> Row:
    return {
        "precision": "int8", "seed": 1, "role": role, "net": "x", "exported": exported, "flops": flops,
        "predicted_ms": predicted, "measured_ms": measured, "repeat_measured_ms": repeat,
    }  # fmt: skip


def test_the_table_judges_held_out_networks_only_and_fits_the_line_to_the_others() -> None:
    rows = [row("calibration", 1, 9.0, 3.0, 9.0), row("calibration", 2, 9.0, 5.0, 9.0)]  # ms = 1 + 2 flops
    rows += [row("held out", 3, 7.0, 7.0, 7.7, "whole"), row("held out", 4, 9.9, 9.0, 9.9, "whole")]
    lines = [line.strip("| ").split(" | ") for line in table(rows).splitlines()[2:]]
    assert [line[3] for line in lines] == ["5.0", "5.0", "10.0", "0.0"]
