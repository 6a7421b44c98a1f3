"""Every strategy's choice fits, is trained alone, and is compared seed by seed."""

import numpy as np
import pytest

from components.architecture.space import Architecture, parse_architecture
from components.settings.recipe import Recipe
from tests.benchmarks import architecture_choice as benchmark
from tests.benchmarks import truth

TINY = truth.Task(
    data=truth.distorted_digits, stem=4, stem_stride=2, stages=((4, 2, 2), (8, 1, 2)),
    blocks=("res_k3", "mb_k3_e1", "mb_k3_e3"), recipe=Recipe(batch_size=32, crop=1), images=64, supernet_images=4000,
)  # fmt: skip


def layers_of_res(architecture: Architecture) -> float:
    return 1.0 + sum(block == "res_k3" for block in architecture)


def test_every_choice_fits_and_is_trained_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(truth.TASKS, "tiny", TINY)
    monkeypatch.setattr(benchmark, "DRAWN", 50)
    limit = benchmark.limit_of("tiny", layers_of_res)
    rows = benchmark.cell("tiny", layers_of_res, limit, seed=1)
    truth.data_of.cache_clear()
    assert [row["strategy"] for row in rows] == [*benchmark.VARIANTS, "drawn", "most FLOPs"]
    for row in rows:
        chosen = parse_architecture(truth.truth_space("tiny"), str(row["architecture"]))
        assert row["latency_ms"] == layers_of_res(chosen) <= limit
        seeds = [truth.train_alone("tiny", chosen, seed) for seed in (2, 3)]
        assert row["test_accuracy"] == round(float(np.mean(seeds)), 5)
    spent = {row["strategy"]: row["supernet_steps"] for row in rows}
    assert len({spent[variant] for variant in benchmark.VARIANTS}) == 1
    assert spent["drawn"] == 0


def test_the_table_pairs_by_seed() -> None:
    accuracies = {"pc_nas": (0.90, 0.80), "ridge": (0.92, 0.82), "random": (0.89, 0.81)}
    rows = [
        benchmark.row("tiny", 1.0, strategy, seed, ("res_k3",), accuracy, 1.0)
        for strategy, both in accuracies.items()
        for seed, accuracy in reversed(list(enumerate(both)))
    ]
    table = benchmark.table(rows)
    assert "| tiny | ridge | 87.00 ± 5.00 | 2.00 ± 0.00 | 2.00 ± 1.00 |" in table
    assert "| tiny | pc_nas | 85.00 ± 5.00 |  | 0.00 ± 1.00 |" in table
