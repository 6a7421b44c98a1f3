"""The whole plan, measured on this machine: everything that is left open gets a value, and what is stated stays."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from components.architecture.budget import limit_of
from components.architecture.costs import costs_of
from components.architecture.space import default_architecture, space_of
from components.data.store import Classes
from components.planning import plan as planning
from components.planning.plan import Facts, Plan, Shaper, choose_dtype, dearest, make_plan
from components.planning.schedule import Settings
from components.settings.budget import Budget
from components.settings.planned import PLANNED
from components.settings.space import SearchSpace
from components.training.devices import CPU
from flows.checkout.settings import left_open, load_params

ROOT = Path(__file__).resolve().parents[2]
FACTS = Facts(names=("a", "b", "c"), channels=1, images=1200, side=12)
OPEN = load_params(ROOT / "flows" / "presets" / "digits.yaml", planned=False).part(Settings)
BLOCKS = ("res_k3", "identity")
QUICK = replace(
    OPEN,
    latency=replace(OPEN.latency, repeats=12),
    threads=1,
    space=replace(OPEN.space, blocks=BLOCKS),
    architecture=replace(OPEN.architecture, blocks=BLOCKS),
)


@cache
def planned() -> Plan:
    return make_plan(replace(QUICK, budget=Budget(latency_ms=0.2, minutes=0.5)), FACTS)


def test_everything_that_is_left_open_gets_a_value() -> None:
    assert {part: set(own) for part, own in planned().chosen.items()} == {
        part: set(own) for part, own in PLANNED.items()
    }
    assert planned().chosen["data"]["data.size"] == 16  # the originals have 12
    assert planned().chosen["export"]["export.quantize"] in ("none", "int8")


def test_the_default_network_fills_the_budget_unless_the_minutes_or_the_widths_end_before() -> None:
    made, said = planned(), " ".join(planned().sentences)
    assert made.measured["default_ms"] <= limit_of(QUICK.architecture, 0.2)
    assert "takes" in said
    assert "of the budget of 0.2 ms" in said


def test_the_speeds_are_of_the_chosen_space_and_more_time_gives_more_epochs() -> None:
    plan = planned()
    chosen = plan.chosen["space"]
    settings = SearchSpace(
        stem=chosen["architecture.stem"],
        stem_stride=chosen["architecture.stem_stride"],
        stages=tuple(tuple(stage) for stage in chosen["architecture.stages"]),
        blocks=QUICK.space.blocks,
    )
    network = default_architecture(space_of(settings, Classes(names=FACTS.names, size=16, channels=1)))
    final = plan.speeds.seconds.final
    assert plan.speeds.seconds.total == pytest.approx(30)
    assert final >= 15
    assert plan.speeds.epochs(network, 2 * final, FACTS.images) > plan.speeds.epochs(network, final, FACTS.images) > 1
    assert plan.speeds.costs.small > 0
    assert plan.speeds.costs.mean > 0


def test_what_a_person_states_is_not_chosen() -> None:
    params = load_params(ROOT / "flows" / "presets" / "digits.yaml", planned=False)
    stated = left_open(params, params.unstated - {"architecture.stem", "architecture.stages", "export.quantize"})
    settings = replace(
        stated.part(Settings),
        latency=QUICK.latency,
        threads=1,
        architecture=QUICK.architecture,
        space=replace(QUICK.space, stem=4, stages=((8, 1, 2),)),
        budget=Budget(latency_ms=0.2, minutes=0.2),
    )
    plan = make_plan(settings, FACTS)
    assert plan.chosen["space"] == {"architecture.stem_stride": 1}
    assert plan.chosen["export"] == {}
    assert plan.speeds.costs.layers == ("4x16x16->8/2",)


def test_layers_train_in_bfloat16_where_steps_are_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = Classes(names=FACTS.names, size=16, channels=1)
    shaper = Shaper(settings=QUICK, classes=classes, export=QUICK.export)
    said: list[str] = []
    for faster, chosen in ((0.5, "float32"), (1.05, "float32"), (1.5, "bfloat16")):
        seconds = {"float32": 3.0e-4, "bfloat16": 3.0e-4 / faster}
        monkeypatch.setattr(
            planning, "time_step", lambda _, recipe, *rest, seconds=seconds, **own: seconds[recipe.dtype]
        )
        assert choose_dtype(shaper, CPU[0], said).dtype == chosen
    assert said[-1].startswith("Layers train in bfloat16: bfloat16 is 1.50 times as fast here (200 µs an image")


def test_the_dearest_network_has_the_most_flops_in_every_layer() -> None:
    blocks = ("res_k3", "mb_k5_e6", "res_k3_e2", "identity")
    settings = SearchSpace(stem=8, stem_stride=1, stages=((16, 2, 2),), blocks=blocks)
    space = space_of(settings, Classes(names=FACTS.names, size=16, channels=1))
    assert dearest(space) == ("res_k3_e2", "res_k3_e2")
    narrow = space_of(replace(settings, stages=((8, 2, 2),)), Classes(names=FACTS.names, size=16, channels=1))
    flops = {one: costs_of(narrow, (one, one)).flops for one in blocks[:3]}
    assert costs_of(narrow, dearest(narrow)).flops >= max(flops.values())
