"""A final training that was killed goes on at an epoch, and nobody can tell from what it leaves behind."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from components.settings.recipe import Recipe
from components.settings.train import Train
from components.training.crop_flip import base_augment
from components.training.fit import Epoch, fit
from components.training.loop import cross_entropy
from flows.resume import training as resume
from flows.resume.training import resume_training


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.classifier = nn.Linear(4 * 36, 3, bias=False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images.float())


def training(ema: float, count: int = 4) -> partial[Iterator[Epoch]]:
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (50, 1, 8, 8), generator=rng, dtype=torch.uint8)
    recipe = Recipe(batch_size=16, learning_rate=0.01, crop=2, flip=True)
    return partial(
        fit, Network(), images, torch.randint(0, 3, (50,), generator=rng),
        settings=Train(epochs=count, ema=ema, recipe=recipe), augment=base_augment(recipe), criterion=cross_entropy(),
        seed=3,
    )  # fmt: skip


def shipped(last: Epoch) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in last.state.items()}


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("done", [1, 3, 4])
def test_a_training_interrupted_after_any_epoch_ends_with_the_same_bytes(tmp_path: Path, ema: float, done: int) -> None:
    *_, calm = curve = list(resume_training(training(ema), tmp_path / "calm"))
    list(islice(resume_training(training(ema), tmp_path / "b", share=1e9), done))
    *_, again = resumed = list(resume_training(training(ema), tmp_path / "b"))
    assert shipped(again) == shipped(calm)
    assert [(e.index, e.loss, e.learning_rate) for e in resumed] == [(e.index, e.loss, e.learning_rate) for e in curve]


def test_epochs_that_are_written_down_are_not_trained_again(tmp_path: Path) -> None:
    list(islice(resume_training(training(0.0), tmp_path, share=1e9), 3))
    asked: list[int] = []

    def counted(*, after: Epoch | None) -> Iterator[Epoch]:
        for epoch in training(0.0)(after=after):
            asked.append(epoch.index)
            yield epoch

    assert len(list(resume_training(counted, tmp_path))) == 4
    assert asked == [3]


def test_writing_takes_no_more_than_its_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which an epoch takes one second and a write one second: a fiftieth of the time is every 51st epoch."""
    clock, written = [0.0], []
    real = resume.write_epochs

    def slow(file: Path, done: list[Epoch]) -> None:
        clock[0] += 1
        written.append(done[-1].index)
        real(file, done)

    def timed(*, after: Epoch | None) -> Iterator[Epoch]:
        for epoch in training(0.0, count=60)(after=after):
            clock[0] += 1
            yield epoch

    monkeypatch.setattr(resume, "write_epochs", slow)
    monkeypatch.setattr("flows.resume.training.time.monotonic", lambda: clock[0])
    list(resume_training(timed, tmp_path))
    assert written == [0, 50]


def test_what_was_being_written_when_the_process_was_killed_is_not_read(tmp_path: Path) -> None:
    list(islice(resume_training(training(0.0), tmp_path, share=1e9), 2))
    (tmp_path / f".{resume.NAME}.abc").write_bytes(b"half")
    assert [epoch.index for epoch in resume.read_epochs(tmp_path / resume.NAME)] == [0, 1]
