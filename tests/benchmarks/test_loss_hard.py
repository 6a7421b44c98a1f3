"""What the hard-data benchmark says of its worlds, of equal compute, of its nulls and of its rivals is so."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from components.data.store import Split
from components.loss import search as searches
from components.online import world as worlds
from components.settings.recipe import Recipe
from tests.benchmarks import hard as hards
from tests.benchmarks import loss_hard as benchmark
from tests.benchmarks.hard import CLASSES, Hard, counts_of, hard_of, relabelled


def small(task: str = "noise 40 %") -> Hard:
    here = hard_of("digits", task, 3)
    sizes = {"head_start": 256, "images": 128}
    return replace(here, data=replace(here.data, search_size=sizes, compute=9000, recipe=Recipe(batch_size=64)))


def test_wrong_labels_are_exactly_so_many_and_never_the_right_one() -> None:
    labels = np.arange(1000) % CLASSES
    moved = relabelled(labels, 0.4, np.random.default_rng(0))
    assert (moved != labels).sum() == 400
    assert set(moved) == set(range(CLASSES))


@pytest.mark.parametrize(("task", "ratio"), [("imbalance 1:10", 10), ("imbalance 1:50", 40)])
def test_rare_classes_are_rare_in_train_alone(task: str, ratio: float) -> None:
    here = hard_of("digits", task, 3)
    counts = counts_of(here.train.labels)
    assert counts.max() / counts.min() == pytest.approx(ratio), "80 over 2 where a whole image is the least"
    assert np.ptp(counts_of(here.val.labels)) == np.ptp(counts_of(here.test.labels)) == 0
    assert here.final is here.train


@pytest.mark.parametrize("name", ["search", "gradients", "copies"])
def test_a_search_and_the_training_after_it_spend_c(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where images are trained on, matched, scored and turned into features, against `spent_images`."""
    spent = {"trained": 0, "matched": 0, "forward": 0}
    here = small()
    train, norms, features, predict = (
        worlds.train_steps, searches.gradient_norms, searches.features_of, worlds.predict,
    )  # fmt: skip

    def counting_steps(*arguments: Any, batches: Any, **more: Any) -> Any:
        batches = list(batches)
        spent["trained"] += sum(len(batch) for batch in batches)
        return train(*arguments, batches=batches, **more)

    def counting_norms(network: Any, state: Any, images: Any, labels: Any, criteria: Any) -> Any:
        spent["matched"] += len(images) * len(criteria)
        return norms(network, state, images, labels, criteria)

    def counting_features(network: Any, state: Any, images: Any) -> Any:
        spent["forward"] += len(images)
        return features(network, state, images)

    def counting_predict(network: Any, images: Any, **more: Any) -> Any:
        spent["forward"] += len(images)
        return predict(network, images, **more)

    for module in (worlds, hards):
        monkeypatch.setattr(module, "train_steps", counting_steps)
    monkeypatch.setattr(worlds, "predict", counting_predict)
    monkeypatch.setattr(searches, "gradient_norms", counting_norms)
    monkeypatch.setattr(searches, "features_of", counting_features)
    if name == "copies":
        small_race = benchmark.RACED | {"trunks": 2, "images": 128, "reward": "leave_one_out", "warmup_trunks": 0}
        monkeypatch.setitem(benchmark.SEARCHES, name, small_race | {"metric": "log_likelihood"})
    found = benchmark.found(here, name)
    total = spent["trained"] + spent["matched"] + spent["forward"] / 3
    assert found.images == pytest.approx(total, rel=0.005)
    hards.train_network(here, here.final, found.criterion, here.data.compute - found.images, found.beginning)
    total = spent["trained"] + spent["matched"] + spent["forward"] / 3
    assert here.data.compute * 0.985 <= total <= here.data.compute * 1.001


def test_shuffled_trains_the_same_network_and_hands_out_the_same_rewards_to_others() -> None:
    here = small()
    world = benchmark.world_of(here, benchmark.settings_of(here, "search"))
    honest, wrong = (next(iter(world.search(*parallel))) for parallel in ((), (benchmark.misdirected(3),)))
    assert all(torch.equal(honest.state[key], wrong.state[key]) for key in honest.state)
    assert honest.samples == wrong.samples
    assert honest.rewards != wrong.rewards
    assert sorted(honest.rewards) == pytest.approx(sorted(wrong.rewards))


def test_a_search_never_sees_the_test_images() -> None:
    here = small()
    blind = replace(here, test=Split(images=np.zeros_like(here.test.images), labels=here.test.labels))
    assert benchmark.searched(here, "search") == benchmark.searched(blind, "search")


def logits_of(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x, w = torch.randn(40, 6, generator=rng), torch.randn(CLASSES, 6, generator=rng)
    return x, w, torch.arange(40) % CLASSES


def test_rivals_are_the_published_losses() -> None:
    """At the points where they are something known."""
    x, w, y = logits_of()
    cross_entropy, p = F.cross_entropy(x @ w.T, y), (x @ w.T).softmax(1).gather(1, y[:, None])
    assert benchmark.focal(0, x, w, y).item() == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert benchmark.gce(1.0, x, w, y).item() == pytest.approx((1 - p).mean().item(), rel=1e-5)
    assert benchmark.gce(1e-4, x, w, y).item() == pytest.approx(cross_entropy.item(), rel=1e-3)
    even = np.full(CLASSES, 7)
    assert benchmark.adjusted(even, 1.0, x, w, y).item() == pytest.approx(cross_entropy.item(), rel=1e-5)
    unit = F.cross_entropy(benchmark.S * F.normalize(x) @ F.normalize(w).T, y)
    assert benchmark.am_softmax(0.0, x, w, y).item() == pytest.approx(unit.item(), rel=1e-5)
    assert benchmark.am_softmax(0.2, x, w, y) > unit


def test_the_null_of_random_losses_is_another_one_every_time_and_the_same_for_a_seed() -> None:
    here, batch = small(), logits_of()
    first, again = benchmark.RandomLosses(here), benchmark.RandomLosses(here)
    values = [first(*batch).item() for _ in range(3)]
    assert len(set(values)) == 3
    assert values == [again(*batch).item() for _ in range(3)]


def test_the_table_names_the_best_in_hindsight_and_pairs_by_seed() -> None:
    accuracies = {"cross_entropy": (0.5, 0.6), "gce_0.9": (0.7, 0.8), "oracle_0.4": (0.9, 0.9), "step_0": (0.4, 0.4),
                  "search": (0.8, 0.9), "chosen": (0.5, 0.5), "copies": (0.5, 0.5), "paper": (0.5, 0.5)}  # fmt: skip
    rows = [
        {
            "data": "digits",
            "task": "clean",
            "seed": seed,
            "method": name,
            "test_accuracy": pair[seed],
            "cpu_seconds": 2.0 if name == "search" else 1.0,
        }
        for name, pair in accuracies.items()
        for seed in (0, 1)
    ]
    drawn = benchmark.table(rows)
    assert "gce_0.9 75.0" in drawn
    assert "+10.0 [+10.0, +10.0]" in drawn
    assert "| 2.0 |" in drawn
