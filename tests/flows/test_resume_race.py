"""A race that was killed goes on after its last finished rung, with the same candidates."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from components.race.halving import Choice, Heat, Setup, Standing, race
from components.settings.race import Race
from flows.resume.race import with_replay

LABELS = torch.arange(40) % 4
FACTORS = {
    "architecture": [Choice(value="a", plain=True), Choice(value="b", plain=False), Choice(value="c", plain=True)],
    "augmentation": [Choice(value="plain", plain=True), Choice(value="strong", plain=False)],
    "loss": [Choice(value="plain", plain=True)],
}


class Killed(Exception):
    pass


class Trainer:
    """Trains by arithmetic that depends on the state it goes on from; dies before its rung number `dies`."""

    def __init__(self, dies: int | None = None) -> None:
        self.rungs, self.dies = 0, dies

    def __call__(self, candidates: Mapping[Setup, Heat | None], factor: str, rung: int) -> dict[Setup, Heat]:
        if self.rungs == self.dies:
            raise Killed
        self.rungs += 1
        return {setup: self.heat(setup, before, rung) for setup, before in candidates.items()}

    def heat(self, setup: Setup, before: Heat | None, rung: int) -> Heat:
        if setup.architecture == "b":
            return Heat(state={}, logits=torch.empty(0), images=7, fault="it diverged")
        seen = before.images if before else 0
        weight = (before.state["model.w"] if before else torch.zeros(3)) + len(setup.augmentation) + rung
        rng = torch.Generator().manual_seed(seen + len(str(setup)))
        logits = torch.randn(len(LABELS), 4, generator=rng) + 2 * torch.nn.functional.one_hot(LABELS, 4)
        return Heat(state={"model.w": weight}, logits=logits, images=seen + 10)


def standings(trainer: Trainer, folder: Path) -> list[Standing]:
    return list(race(FACTORS, with_replay(trainer, folder), LABELS, Race(images=10)))


@pytest.mark.parametrize("dies", [1, 2, 3])
def test_a_killed_race_goes_on_after_its_last_rung_and_ends_with_the_same_decisions_and_weights(
    tmp_path: Path, dies: int
) -> None:
    whole = standings(Trainer(), tmp_path / "whole")
    with pytest.raises(Killed):
        standings(Trainer(dies), tmp_path / "killed")
    again = Trainer()
    resumed = standings(again, tmp_path / "killed")
    assert again.rungs == 4 - dies  # two rungs for each factor with several choices
    assert [one.decision for one in resumed] == [one.decision for one in whole]
    assert str([one.rows for one in resumed]) == str([one.rows for one in whole])  # as text, since nan is not nan
    assert torch.equal(resumed[-1].heat.state["model.w"], whole[-1].heat.state["model.w"])
    assert any(row.fault == "it diverged" for row in resumed[0].rows)
