"""The race's short trainings: the same bytes wherever they run, and each candidate its share of the time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from components.data.store import Split
from components.race.halving import Heat, Setup
from components.race.trainings import Trainings, heat_of
from components.settings.parallel import Parallel as ParallelSettings
from components.settings.race import Race
from components.settings.recipe import Recipe
from components.training.crop_flip import base_augment
from components.training.loop import cross_entropy
from components.training.metrics import accuracy
from components.training.parallel import Parallel, WorkerDied, sequential
from flows.runtime.observer import Silent
from flows.runtime.workers import joblib_parallel
from tests.clones import ROOT

SMALL, LARGE = Setup("4", "plain", "plain"), Setup("8", "plain", "plain")
RECIPE = Recipe(batch_size=16, learning_rate=0.05, crop=1)


class Network(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Linear(4 * channels, 10, bias=False)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images.float() / 128 - 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def make(architecture: str) -> Network:
    torch.manual_seed(0)
    return Network(int(architecture))


def never_finite(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return (features @ weight.T).mean() * float("nan")


def digits(first: int, last: int) -> Split:
    data = load_digits()
    images = (data.images[first:last, :, :, None] * 15).astype(np.uint8)
    return Split(images=images, labels=data.target[first:last].astype(np.int64))


TRAIN, VAL = digits(0, 600), digits(600, 800)


def trainings(**changes: Any) -> Trainings:
    values: dict[str, Any] = {
        "make": make,
        "augments": {"plain": base_augment(RECIPE), "none": base_augment(replace(RECIPE, crop=0))},
        "criteria": {"plain": cross_entropy(), "wild": never_finite},
        "costs": {"4": 1.0, "8": 2.0},
        "train": TRAIN,
        "val": VAL,
        "recipe": RECIPE,
        "settings": Race(images=320),
        "seed": 1,
    }
    return Trainings(**(values | changes))


def fresh(*setups: Setup) -> dict[Setup, Heat | None]:
    return dict.fromkeys(setups)


def whole_race(parallel: Parallel) -> dict[Setup, Heat]:
    """Two rungs of the first factor, and one of the next from there."""
    all_ = trainings()
    heats = all_.run(parallel, fresh(SMALL, LARGE), "architecture", 0)
    heats = all_.run(parallel, heats, "architecture", 1)
    start = heats[SMALL]
    return all_.run(parallel, {SMALL: start, SMALL._replace(augmentation="none"): start}, "augmentation", 0)


def bytes_of(heats: dict[Setup, Heat]) -> dict[tuple[Setup, str], bytes]:
    tensors = {(setup, name): value for setup, heat in heats.items() for name, value in heat.state.items()}
    tensors |= {(setup, "logits"): heat.logits for setup, heat in heats.items()}
    return {key: value.numpy().tobytes() for key, value in tensors.items()}


def on_two_workers_and_on_one() -> None:
    """Say whether both give the same."""
    two = whole_race(joblib_parallel(ParallelSettings(backend="loky", workers=2), Silent(), "candidates"))
    one = whole_race(sequential)
    print(bytes_of(two) == bytes_of(one), {heat.images for heat in two.values()} == {320 * (1 + 2 + 1)})


def test_on_one_worker_and_on_two_the_candidates_are_the_same_to_the_byte() -> None:
    """In a process of its own: functions within functions reach no worker with the checks of shapes around them."""
    script = f"from {__name__} import on_two_workers_and_on_one; on_two_workers_and_on_one()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_trained_again_the_candidates_are_the_same_to_the_byte() -> None:
    assert bytes_of(whole_race(sequential)) == bytes_of(whole_race(sequential))


def test_training_teaches() -> None:
    labels = torch.from_numpy(VAL.labels)
    (heat,) = trainings(settings=Race(images=6000)).run(sequential, fresh(LARGE), "architecture", 0).values()
    assert accuracy(heat.logits, labels) > 0.6


def test_a_network_that_costs_twice_as_much_sees_half_the_images_and_a_further_rung_twice_as_many() -> None:
    first = trainings().run(sequential, fresh(SMALL, LARGE), "architecture", 0)
    assert (first[SMALL].images, first[LARGE].images) == (320, 160)
    second = trainings().run(sequential, first, "architecture", 1)
    assert (second[SMALL].images, second[LARGE].images) == (320 + 640, 160 + 320)


def test_candidates_of_a_rung_see_the_same_batches_in_the_same_order() -> None:
    one, other = (Setup("4", augmentation, "plain") for augmentation in ("plain", "same"))
    augments = {"plain": base_augment(RECIPE), "same": base_augment(RECIPE)}
    heats = trainings(augments=augments).run(sequential, fresh(one, other), "augmentation", 0)
    assert torch.equal(heats[one].logits, heats[other].logits)


def test_batches_differ_from_rung_to_rung_from_factor_to_factor_and_from_seed_to_seed() -> None:
    seen: list[bytes] = []
    for seed, factor, rung in ((1, "architecture", 0), (1, "architecture", 1), (1, "loss", 0), (2, "architecture", 0)):
        with first_images(seen) as augments:
            trainings(augments=augments, seed=seed).run(sequential, fresh(SMALL), factor, rung)
    assert len(set(seen)) == 4


@contextmanager
def first_images(seen: list[bytes]) -> Iterator[dict[str, Any]]:
    batches: list[bytes] = []

    def watch(images: Tensor, rng: torch.Generator) -> Tensor:
        batches.append(images.contiguous().numpy().tobytes())
        return images

    yield {"plain": watch}
    seen.append(batches[0])


def test_the_rate_rises_in_the_first_rung_of_the_first_factor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: dict[tuple[str, int], list[float]] = {}
    for factor, rung in (("architecture", 0), ("architecture", 1), ("loss", 0)):
        rates[factor, rung] = []
        watch_rates(monkeypatch, rates[factor, rung])
        trainings().run(sequential, fresh(LARGE), factor, rung)
    assert rates["architecture", 0] == pytest.approx([0.05 * (step + 1) / 10 for step in range(10)])
    assert rates["architecture", 1] == [0.05] * 20
    assert rates["loss", 0] == [0.05] * 10


def watch_rates(monkeypatch: pytest.MonkeyPatch, rates: list[float]) -> None:
    from components.race import trainings as module
    from components.training.loop import train_steps

    def watched(network: nn.Module, state: Any, *where: Any, rate: Any, **more: Any) -> Any:
        rates.extend(rate(step) for step in range(len(more["batches"])))
        return train_steps(network, state, *where, rate=rate, **more)

    monkeypatch.setattr(module, "train_steps", watched)


def test_a_candidate_that_diverges_has_a_fault_and_the_others_go_on() -> None:
    wild = SMALL._replace(loss="wild")
    heats = trainings().run(sequential, fresh(SMALL, wild), "loss", 0)
    assert "finite" in heats[wild].fault or "nan" in heats[wild].fault
    assert (heats[wild].state, heats[SMALL].fault) == ({}, "")
    alone = trainings().run(sequential, fresh(SMALL), "loss", 0)
    assert torch.equal(heats[SMALL].logits, alone[SMALL].logits)


def test_a_candidate_whose_worker_died_has_that_as_its_fault() -> None:
    assert heat_of(WorkerDied()).fault == "its worker died twice"


def test_val_is_answered_by_the_average_of_the_weights_and_training_goes_on_from_the_last_ones() -> None:
    all_ = trainings()
    (heat,) = all_.run(sequential, fresh(SMALL), "architecture", 0).values()
    network = make("4")
    network.load_state_dict({key.removeprefix("model."): v for key, v in heat.state.items() if "model." in key})
    assert not torch.allclose(all_.answer(network), heat.logits, atol=1e-3)
    assert any(key.startswith("momentum.") and value.abs().sum() > 0 for key, value in heat.state.items())


def test_with_progressive_training_candidates_see_and_answer_the_side_that_the_final_training_begins_on() -> None:
    sides: set[tuple[int, ...]] = set()

    class Watching(Network):
        def features(self, images: Tensor) -> Tensor:
            sides.add(tuple(images.shape[-2:]))
            return super().features(images)

    def watching(architecture: str) -> Watching:
        return Watching(int(architecture))

    all_ = trainings(make=watching, recipe=replace(RECIPE, progressive=True))
    all_.run(sequential, fresh(SMALL), "architecture", 0)
    assert sides == {(4, 4)}
    sides.clear()
    trainings(make=watching).run(sequential, fresh(SMALL), "architecture", 0)
    assert sides == {(8, 8)}
