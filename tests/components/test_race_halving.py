"""What the race decides, from the answers that its candidates give: trainings are made up here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from components.race.halving import FACTORS, Choice, Decision, Heat, Setup, Standing, gain, race
from components.race.trainings import race_images
from components.settings.race import Race
from components.shipping.comparison import Paired

IMAGES = 400
LABELS = torch.arange(IMAGES) % 4
SETTINGS = Race(images=10)


def answers(right: int) -> Tensor:
    """Logits on val that are right on the first so many images."""
    said = torch.where(torch.arange(IMAGES) < right, LABELS, (LABELS + 1) % 4)
    return 2.0 * torch.nn.functional.one_hot(said, 4)


class Toy:
    """In a training, a choice comes to be right on as many images as it is worth; a text is the reason why not."""

    def __init__(self, worth: Mapping[str, int | str]) -> None:
        self.worth = worth
        self.asked: list[tuple[str, int, list[str]]] = []
        self.from_: dict[tuple[str, int, str], float | None] = {}
        self.trained = 0

    def __call__(self, candidates: Mapping[Setup, Heat | None], factor: str, rung: int) -> dict[Setup, Heat]:
        self.asked.append((factor, rung, [getattr(setup, factor) for setup in candidates]))
        return {setup: self.heat(setup, before, factor, rung) for setup, before in candidates.items()}

    def heat(self, setup: Setup, before: Heat | None, factor: str, rung: int) -> Heat:
        choice = getattr(setup, factor)
        self.from_[factor, rung, choice] = float(before.state["model.w"]) if before else None
        self.trained += SETTINGS.images * 2**rung
        images = (before.images if before else 0) + SETTINGS.images * 2**rung
        worth = self.worth[choice]
        if isinstance(worth, str):
            return Heat(state={}, logits=torch.empty(0), images=images, fault=worth)
        return Heat(state={"model.w": torch.tensor(float(images + worth))}, logits=answers(worth), images=images)


def choices(plain: Sequence[str], others: Sequence[str] = ()) -> list[Choice]:
    return [*(Choice(value=one, plain=True) for one in plain), *(Choice(value=one, plain=False) for one in others)]


def factors(**of: list[Choice]) -> dict[str, list[Choice]]:
    """One plain choice of every factor that is not named."""
    return {factor: of.get(factor, choices([f"plain {factor}"])) for factor in FACTORS}


def run(
    worth: Mapping[str, int | str], settings: Race = SETTINGS, **of: list[Choice]
) -> tuple[Toy, dict[str, Standing]]:
    every = {f"plain {factor}": 300 for factor in FACTORS} | dict(worth)
    toy = Toy(every)
    standings = list(race(factors(**of), toy, LABELS, settings))
    return toy, dict(zip(FACTORS, standings, strict=True))


@pytest.mark.parametrize(
    ("other", "p", "taken"),
    [(300, 1.0, "plain"), (290, 1.0, "plain"), (304, 1 / 16, "plain"), (305, 1 / 32, "other"), (390, 0.0, "other")],
)
def test_plain_training_ships_unless_another_is_better_beyond_chance(other: int, p: float, taken: str) -> None:
    _, standings = run({"plain": 300, "other": other}, augmentation=choices(["plain"], ["other"]))
    decision = standings["augmentation"].decision
    assert decision.taken == standings["loss"].setup.augmentation == taken
    assert (decision.plain, decision.other) == ("plain", "other")
    assert decision.p == pytest.approx(p, abs=1e-9)
    assert decision.paired == Paired(images=IMAGES, lost=max(0, 300 - other), won=max(0, other - 300))


def test_at_level_0_nothing_replaces_plain_training() -> None:
    of = {"augmentation": choices(["plain"], ["other"])}
    _, standings = run({"plain": 100, "other": 400}, Race(images=10, alpha=0.0), **of)
    assert standings["augmentation"].decision.taken == "plain"


def test_the_better_half_survives_and_the_best_of_both_kinds_always() -> None:
    worth = {"p": 110, "q": 100, "a": 390, "b": 380, "c": 370, "d": 360, "e": 350}
    toy, standings = run(worth, Race(images=10, rungs=3), loss=choices(["p", "q"], ["a", "b", "c", "d", "e"]))
    asked = [set(names) for factor, _, names in toy.asked if factor == "loss"]
    assert asked == [set(worth), {"p", "a", "b", "c", "d"}, {"p", "a", "b", "c"}]
    left = {(row.rung, row.choice) for row in standings["loss"].rows if row.kept}
    assert {choice for rung, choice in left if rung == 2} == {"p", "a"}
    assert (standings["loss"].decision.plain, standings["loss"].decision.other) == ("p", "a")


def test_candidates_are_ordered_by_how_sure_they_are_where_they_are_equally_often_right() -> None:
    """At its best temperature, so that it is no matter of scale."""

    class Unsure(Toy):
        def heat(self, setup: Setup, before: Heat | None, factor: str, rung: int) -> Heat:
            heat = super().heat(setup, before, factor, rung)
            wrong = torch.where(torch.arange(IMAGES) < 200, 0.1, 3.0)[:, None] if setup.loss == "careful" else 1.0
            return Heat(state=heat.state, logits=heat.logits / wrong, images=heat.images)

    every = {f"plain {factor}": 200 for factor in FACTORS} | {"careful": 200, "careless": 200}
    of = factors(loss=choices(["plain loss"], ["careless", "careful"]))
    *_, last = race(of, Unsure(every), LABELS, SETTINGS)
    assert last.decision.other == "careful"


def test_a_factor_goes_on_from_the_winner_of_the_one_before() -> None:
    toy, standings = run(
        {"net": 310, "small": 305, "plain": 300, "other": 380, "smooth": 200},
        architecture=choices(["small", "net"]),
        augmentation=choices(["plain"], ["other"]),
        loss=choices(["plain"], ["smooth"]),
    )
    assert {toy.from_["architecture", 0, one] for one in ("small", "net")} == {None}
    winner = float(standings["architecture"].heat.state["model.w"])
    assert winner == 30 + 310  # what it saw, and is worth
    assert {toy.from_["augmentation", 0, one] for one in ("plain", "other")} == {winner}
    assert {toy.from_["loss", 0, one] for one in ("plain", "smooth")} == {60 + 380}
    assert standings["loss"].heat.images == 90


def test_the_baseline_is_the_best_network_that_is_plain_with_nothing_else() -> None:
    _, standings = run(
        {"small": 300, "net": 310, "found": 390, "plain": 200, "other": 400, "smooth": 400},
        architecture=choices(["small", "net"], ["found"]),
        augmentation=choices(["plain"], ["other"]),
        loss=choices(["plain"], ["smooth"]),
    )
    assert standings["loss"].setup == Setup("found", "other", "smooth")
    assert standings["loss"].plain == Setup("net", "plain", "plain")


def test_a_factor_with_one_choice_costs_nothing_but_the_first_which_others_go_on_from() -> None:
    toy, standings = run({})
    assert [(factor, rung) for factor, rung, _ in toy.asked] == [("architecture", 0), ("architecture", 1)]
    assert [standing.decision.taken for standing in standings.values()] == [f"plain {factor}" for factor in FACTORS]
    assert all(gain(standing.decision) is None for standing in standings.values())
    assert standings["loss"].heat is standings["architecture"].heat


def test_a_candidate_that_diverged_has_lost_and_its_reason_is_kept() -> None:
    of = {"loss": choices(["plain"], ["wild", "tame"])}
    toy, standings = run({"plain": 200, "wild": "its loss is nan", "tame": 210}, **of)
    assert toy.asked[-1] == ("loss", 1, ["tame", "plain"])
    (row,) = [row for row in standings["loss"].rows if row.choice == "wild"]
    assert (row.fault, row.kept, math.isnan(row.accuracy), math.isnan(row.score)) == ("its loss is nan", 0, 1, 1)
    assert standings["loss"].decision.other == "tame"


def test_where_plain_training_diverged_what_is_left_ships() -> None:
    _, standings = run({"plain": "gone", "other": 100}, augmentation=choices(["plain"], ["other"]))
    assert standings["loss"].setup.augmentation == "other"
    assert standings["loss"].plain.augmentation == "plain"
    _, standings = run({"plain": 100, "other": "gone"}, augmentation=choices(["plain"], ["other"]))
    assert standings["loss"].setup.augmentation == "plain"
    assert gain(standings["augmentation"].decision) is None


def test_where_every_training_diverged_the_race_ends_with_the_reason() -> None:
    with pytest.raises(FloatingPointError, match=r"every candidate of the race's loss diverged \(its loss is nan\)"):
        run({"plain": "its loss is nan", "other": "its loss is nan"}, loss=choices(["plain"], ["other"]))


def test_a_gain_is_the_difference_in_accuracy_with_its_interval() -> None:
    decision = Decision(
        factor="loss", plain="p", other="o", paired=Paired(images=100, lost=4, won=16), p=0.006, taken="o"
    )
    lead, low, high = gain(decision) or (math.nan,) * 3
    error = 1.96 * math.sqrt(20 / 100 - 0.12**2) / math.sqrt(100)  # of the mean of +1, 0 and -1
    assert lead == pytest.approx(0.12)
    assert (low, high) == pytest.approx((0.12 - error, 0.12 + error))


@pytest.mark.parametrize("rungs", [1, 2, 3])
@pytest.mark.parametrize("best", ["plain", "others"])
def test_the_images_of_a_race_are_no_more_than_planned(rungs: int, best: str) -> None:
    """The plain choice alone is last, so that it stays beside a whole better half; or it is first."""
    names = {factor: [f"{factor} {k}" for k in range(count)] for factor, count in zip(FACTORS, (3, 4, 1), strict=True)}
    worth: dict[str, Any] = {one: 300 + k for own in names.values() for k, one in enumerate(own)}
    worth |= {own[0]: 390 if best == "plain" else 100 for own in names.values()}
    toy, settings = Toy(worth), Race(images=10, rungs=rungs)
    list(race({factor: choices(own[:1], own[1:]) for factor, own in names.items()}, toy, LABELS, settings))
    planned = race_images([len(own) for own in names.values()], settings)
    assert toy.trained <= planned <= 1.5 * toy.trained
