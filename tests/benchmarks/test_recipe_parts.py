"""The variants of the recipe train, spend what they are given, and are what they say."""

import numpy as np
import pytest
import torch

from components.data.store import Split
from tests.benchmarks.recipe_parts import BASE, TOGETHER, VARIANTS, Training, orthogonalised, train_under


def images(count: int) -> Split:
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=count)
    return Split(
        images=(labels[:, None, None, None] * 20 + rng.integers(20, size=(count, 32, 32, 3))).astype(np.uint8),
        labels=labels,
    )


@pytest.mark.parametrize("name", ["base", "all of these, muon 0.12"])
def test_a_variant_learns_within_its_seconds(name: str) -> None:
    row = train_under(VARIANTS[name], 1, images(512), images(64), 4.0)
    assert float(str(row["test_accuracy"])) > 0.2
    assert 1.0 < float(str(row["cpu_seconds"])) < 16.0
    assert (row["averaged_accuracy"] is not None) == VARIANTS[name].averaged


def test_muons_step_is_nearly_orthogonal() -> None:
    for shape in ((8, 27), (27, 8)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(1)), 6))
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_an_image_is_flipped_in_every_second_epoch_and_the_rate_ends_at_nothing() -> None:
    data = images(64)
    pixels, labels = torch.from_numpy(data.images).permute(0, 3, 1, 2), torch.from_numpy(data.labels)
    training = Training(torch.nn.Linear(1, 1), TOGETHER, pixels, labels, 1)
    assert 10 < int(training.flipped.sum()) < 54
    assert training.augmented(torch.arange(8), 0, 20).shape == (8, 3, 20, 20)
    for recipe in (BASE, TOGETHER):
        training.recipe = recipe
        rates = [training.rate(step, 100) for step in range(100)]
        assert max(rates) == pytest.approx(1.0)
        assert rates[-1] < 0.02
