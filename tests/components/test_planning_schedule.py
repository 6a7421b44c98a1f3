"""How the minutes are spent, on a machine whose speed is made up."""

import re
from dataclasses import replace
from typing import Any

import pytest

from components.architecture.space import space_of
from components.data.store import Classes
from components.planning.schedule import (
    ENOUGH,
    PLENTY,
    RACE,
    SHORT,
    THOROUGH,
    TRUNKS,
    Machine,
    Schedule,
    Settings,
    default_minutes,
    effective,
    make_schedule,
)
from components.race.trainings import race_images
from components.settings.online import Online
from flows.checkout.settings import load_params
from flows.settings import presets
from tests.stages import costs

IMAGES = 1000
STAGES = ("architecture", "augmentation", "loss")


def machine(slow: float = 1.0, costs_changes: dict[str, float] | None = None, **stated: Any) -> Machine:
    """The quick start on such a machine: an epoch of the default network takes 4 seconds, `slow` times over.

    `stated`: settings that a person gives, with __ for the point.
    """
    params = load_params(presets()["digits"], planned=False)
    settings = params.part(Settings)
    keys = {key.replace("__", "."): value for key, value in stated.items()}
    settings = replace(
        settings,
        unstated=settings.unstated.difference(keys),
        **{
            word: with_own(getattr(settings, word), {k: v for k, v in keys.items() if k.startswith(f"{word}.")})
            for word in (*STAGES, "race")
        },
    )
    space = space_of(settings.space, Classes(names=tuple("abcdefghij"), size=16, channels=1))
    measured = costs(space, **(costs_changes or {}))
    slower = {name: slow * seconds for name, seconds in measured.parts.items()}
    return Machine(settings=settings, space=space, costs=replace(measured, parts=slower), images=IMAGES)


def with_own(section: Any, values: dict[str, Any]) -> Any:
    for key, value in values.items():
        _, *names = key.split(".")
        if names[0] == "online":
            section = replace(section, online=replace(section.online, **{names[1]: value}))
        else:
            section = replace(section, **{names[0]: value})
    return section


def minutes_of(epochs: float, on: Machine) -> float:
    return epochs * on.epoch_seconds / 60


def planned(epochs: float, on: Machine | None = None) -> Schedule:
    on = on or machine()
    return make_schedule(on, minutes_of(epochs, on))


def test_the_made_up_machine_takes_4_seconds_for_an_epoch() -> None:
    assert machine().epoch_seconds == pytest.approx(4.0)
    assert machine(costs_changes={"mean": 0.5, "speedup": 2.0}).epoch_seconds == pytest.approx(1.0)


@pytest.mark.parametrize("epochs", [100, 200, 400, 2000])
@pytest.mark.parametrize("slow", [0.2, 1.0, 30.0])
def test_where_all_is_open_half_or_more_is_the_final_trainings_and_no_part_exceeds_its_share(
    epochs: float, slow: float
) -> None:
    on = machine(slow)
    seconds, total = planned(epochs, on).seconds, 60 * minutes_of(epochs, on)
    assert seconds.total == pytest.approx(total, rel=1e-6)
    assert seconds.final >= 0.5 * total
    for word, share in THOROUGH.items():
        assert getattr(seconds, word) <= 1.01 * share * total
    assert seconds.race <= RACE * total * (1 + 1e-9)
    assert seconds.race >= 0.95 * RACE * total or planned(epochs, on).settings["race.images"] == 64


def test_the_searches_use_what_they_are_given() -> None:
    seconds, total = planned(600).seconds, 60 * minutes_of(600, machine())
    assert [round(getattr(seconds, word) / total, 2) for word in ("augmentation", "loss")] == [0.06, 0.06]
    assert seconds.architecture / total == pytest.approx(0.125, abs=0.01)


@pytest.mark.parametrize("epochs", [1, 5, ENOUGH - 1])
def test_with_few_epochs_nothing_is_searched_and_the_training_gets_what_the_race_leaves(epochs: float) -> None:
    schedule = planned(epochs)
    assert schedule.settings["architecture.strategy"] == "largest"
    assert schedule.settings["augmentation.online.trunks"] == schedule.settings["loss.online.trunks"] == 0
    assert schedule.seconds.searches == 0
    assert any(f"fewer than {ENOUGH} epochs" in sentence for sentence in schedule.sentences)
    assert schedule.seconds.final >= (1 - RACE) * 4 * epochs * 0.6


@pytest.mark.parametrize("slow", [0.5, 1.0, 30.0])
@pytest.mark.parametrize("epochs", [ENOUGH, PLENTY - 1])
def test_with_enough_epochs_for_a_short_search_augmentation_and_loss_get_it(epochs: float, slow: float) -> None:
    schedule, total = planned(epochs, machine(slow)), 60 * minutes_of(epochs, machine(slow))
    assert schedule.settings["architecture.strategy"] == "largest"
    for word in ("augmentation", "loss"):
        seconds = getattr(schedule.seconds, word)
        assert seconds <= 1.01 * SHORT[word] * total
        assert (seconds > 0) is (schedule.settings[f"{word}.online.trunks"] == TRUNKS)
    assert planned(60, machine(30.0)).seconds.loss > 0  # where the fixed costs are small beside a training
    assert schedule.seconds.final >= 0.7 * total


def test_with_plenty_every_search_runs_and_is_named() -> None:
    schedule = planned(5 * PLENTY)
    assert schedule.settings["architecture.strategy"] == "pc_nas"
    assert schedule.settings["augmentation.online.trunks"] == schedule.settings["loss.online.trunks"] == TRUNKS
    assert any("Searched: architecture, augmentation, loss" in sentence for sentence in schedule.sentences)


def test_a_search_whose_fixed_costs_exceed_its_share_is_left_out_alone() -> None:
    schedule = planned(2 * PLENTY, machine(augmentation__online__probe_images=100_000))
    assert schedule.settings["augmentation.online.trunks"] == 0
    assert schedule.settings["loss.online.trunks"] == TRUNKS
    assert schedule.seconds.augmentation == 0 < schedule.seconds.loss


def test_what_is_chosen_are_settings_that_the_searches_take() -> None:
    on = machine()
    chosen = planned(5 * PLENTY, on).settings
    for word in ("augmentation", "loss"):
        online: Online = effective(getattr(on.settings, word).online, chosen, f"{word}.online.")
        assert online.trunks == TRUNKS
        assert online.head_start >= on.settings.recipe.batch_size <= online.images
    search = effective(on.settings.architecture, chosen, "architecture.")
    assert 1 <= search.warmup_epochs <= 20
    assert search.stage_epochs > 0
    assert chosen["race.images"] >= on.settings.recipe.batch_size


@pytest.mark.parametrize("slow", [0.01, 0.0966, 0.966, 1.0, 1.58, 1.74, 9.66, 70.3])
def test_minutes_too_few_for_an_epoch_are_refused_with_the_number_that_would_do(slow: float) -> None:
    on = machine(slow)
    with pytest.raises(ValueError, match=r"^budget\.minutes is .*, too few for one epoch of the default") as refused:
        planned(0.9, on)
    number = re.search(r"use at least ([0-9.e+-]+)$", str(refused.value))
    assert number is not None
    assert make_schedule(on, float(number[1])).seconds.final > 0
    assert float(number[1]) < 1.2 * minutes_of(1, on)


def test_what_a_person_states_of_the_race_is_counted_and_the_training_gets_the_rest() -> None:
    on = machine(race__images=64)
    seconds, total = planned(60, on).seconds, 240.0
    counts = [3, 3, 3]  # default, residual, largest network; plain and two policies; plain and two smoothings
    assert seconds.race == pytest.approx(race_images(counts, on.settings.race) * 4e-3 / 1.8)  # by 1.8 workers
    assert seconds.final == pytest.approx(total - seconds.race)


def test_a_stated_search_is_counted_even_where_the_plan_would_leave_it_out() -> None:
    online = {"loss__online__trunks": 10, "loss__online__images": 640, "loss__online__head_start": 640}
    seconds = planned(60, machine(**online)).seconds
    assert seconds.loss == pytest.approx(6.0 + 11 * 640 * 4e-3)
    assert seconds.architecture == seconds.augmentation == 0


def test_stated_searches_that_take_all_the_time_still_leave_half_of_it_to_the_training() -> None:
    seconds = planned(60, machine(loss__online__trunks=10, loss__online__images=100_000)).seconds
    assert seconds.loss > 240
    assert seconds.final == pytest.approx(120)


def test_a_stated_architecture_search_is_counted_and_none_costs_nothing() -> None:
    stated = {"architecture__strategy": "pc_nas", "architecture__warmup_epochs": 2.0, "architecture__stage_epochs": 1.0}
    on = machine(**stated)
    trained = (2 + 2 * 1) * IMAGES * on.random_image_seconds
    assert planned(60, on).seconds.architecture == pytest.approx(on.scoring_seconds() + trained)
    assert planned(60, machine(**(stated | {"architecture__strategy": "largest"}))).seconds.architecture == 0


def test_more_workers_make_what_runs_side_by_side_cheaper() -> None:
    one, four = machine(), machine()
    four = replace(four, settings=replace(four.settings, parallel=replace(four.settings.parallel, workers=4)))
    assert four.scoring_seconds() == pytest.approx(one.scoring_seconds() / 2)
    assert four.race_seconds(four.settings.race, ()) == pytest.approx(one.race_seconds(one.settings.race, ()) / 2)


def test_without_stated_minutes_about_twice_a_training_is_planned() -> None:
    steps = 3000 * 64 / IMAGES  # more than 30 epochs
    assert default_minutes(machine()) == pytest.approx(2 * steps * 4 / 60)
    many = replace(machine(), images=1_000_000)
    assert default_minutes(many) == pytest.approx(2 * 30 * many.epoch_seconds / 60)


def test_the_shares_in_the_sentences_are_those_of_the_seconds() -> None:
    schedule = planned(5 * PLENTY)
    shares = [int(share) for share in re.findall(r"\((\d+)%\)", " ".join(schedule.sentences))]
    seconds = schedule.seconds
    assert shares == [round(100 * part / seconds.total) for part in (seconds.searches, seconds.race, seconds.final)]
    assert f"{5 * PLENTY} epochs of the default network" in schedule.sentences[0]
