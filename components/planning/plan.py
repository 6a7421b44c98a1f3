"""Make the plan: measure what this machine does, look at the data, and choose every setting that a person left open."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import onnx
import torch

from components.architecture.budget import limit_of
from components.architecture.costs import block_costs
from components.architecture.network import build_network, seeded
from components.architecture.part_models import random_images, shift
from components.architecture.space import (
    Architecture,
    Space,
    candidates,
    default_architecture,
    format_architecture,
    space_of,
)
from components.architecture.timing import measure_model
from components.architecture.training_cost import TrainingCosts
from components.data.store import Classes
from components.planning.schedule import Machine, Settings, default_minutes, make_schedule
from components.planning.shape import (
    FIRST,
    Fitted,
    Template,
    as_settings,
    fit_width,
    narrower,
    resolution,
    template_for,
)
from components.planning.speeds import Speeds
from components.planning.training_speed import measure_training, time_step
from components.settings.export import Export
from components.settings.planned import PLANNED
from components.settings.recipe import Recipe
from components.settings.space import SearchSpace
from components.shipping.export import export_network
from components.shipping.quantisation import convert
from components.training.devices import CPU, one_thread

Precision = Literal["none", "int8"]
WORTH = 1.1
"""How many times as fast as float32 an int8 file, or training in bfloat16, must be to be chosen."""
FEWEST_EPOCHS = 20
"""Epochs of the default network that the minutes must be worth; below, the space is made narrower (ours)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the plan knows of the data."""

    names: tuple[str, ...]
    channels: int
    images: int
    """Number of images of train and val together."""
    side: int
    """Median of the originals' shorter sides, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that was decided, and why."""

    chosen: dict[str, dict[str, Any]]
    """Part of the settings -> setting -> value; only settings that a person left open."""
    speeds: Speeds
    minutes: float
    sentences: tuple[str, ...]
    measured: dict[str, float]


def make_plan(settings: Settings, facts: Facts, device: torch.device = CPU[0]) -> Plan:
    """Measure and decide. Raises ValueError for minutes that do not suffice for one epoch."""
    sentences: list[str] = []
    open_ = settings.unstated
    size = settings.data.size
    if "data.size" in open_:
        size, why = resolution(facts.side)
        sentences.append(why)
    classes = Classes(names=facts.names, size=size, channels=facts.channels)
    shaper = Shaper(settings=settings, classes=classes, export=settings.export)
    export = choose_precision(shaper, sentences) if "export.quantize" in open_ else settings.export
    shaper = replace(shaper, export=export)
    if "train.recipe.dtype" in open_:
        settings = replace(settings, recipe=choose_dtype(shaper, device, sentences))
        shaper = replace(shaper, settings=settings)
    shape = choose_shape(shaper, facts.images, device, sentences)
    machine = Machine(settings=settings, space=shape.space, costs=shape.costs, images=facts.images)
    minutes = settings.budget.minutes
    if minutes is None:
        minutes = default_minutes(machine)
        sentences.append(f"No minutes were stated: {minutes:.2g} are planned, about twice one training.")
    schedule = make_schedule(machine, minutes)
    flat = {"data.size": size, "export.quantize": export.quantize, "train.recipe.dtype": settings.recipe.dtype}
    flat |= {f"architecture.{name}": value for name, value in as_settings(shape.settings).items()}
    flat |= schedule.settings
    return Plan(
        chosen=by_part(flat, open_),
        speeds=Speeds(costs=shape.costs, seconds=schedule.seconds),
        minutes=minutes,
        sentences=(*sentences, *schedule.sentences),
        measured=shape.measured,
    )


def by_part(flat: Mapping[str, Any], open_: frozenset[str]) -> dict[str, dict[str, Any]]:
    """Return the choices that are open, by the part of the settings that stages read."""
    return {part: {key: flat[key] for key in own if key in open_} for part, own in PLANNED.items()}


@dataclass(frozen=True, kw_only=True)
class Shaper:
    """Builds spaces of any width for the images at hand, and measures their networks."""

    settings: Settings
    classes: Classes
    export: Export

    @property
    def template(self) -> Template:
        return template_for(self.classes.size)

    @property
    def free(self) -> bool:
        """Whether the plan chooses the widths."""
        return "architecture.stages" in self.settings.unstated

    def space_settings(self, width: int) -> SearchSpace:
        """Return the template's space of that width, with what a person states in its place."""
        wanted, stated = self.template.at(width, self.settings.space.blocks), self.settings.space
        own = {
            name: getattr(stated, name)
            for name in ("stem", "stem_stride", "stages")
            if f"architecture.{name}" not in self.settings.unstated
        }
        return replace(wanted, **own)

    def space(self, width: int) -> Space:
        return space_of(self.space_settings(width), self.classes)

    def measure(self, width: int, architecture: Architecture | None = None, quantize: Precision | None = None) -> float:
        """Return the milliseconds on the target of a network of that width, the default one unless told otherwise."""
        export = self.export if quantize is None else replace(self.export, quantize=quantize)
        space = self.space(width)
        architecture = architecture or default_architecture(space)
        file = convert(untrained(space, self.classes, architecture), random_images(space), export).SerializeToString()
        return measure_model(file, self.settings.latency, self.settings.latency.repeats).quiet_ms


@cache
def untrained(space: Space, classes: Classes, architecture: Architecture) -> onnx.ModelProto:
    """Return the file of a network with first weights, as it would ship in float."""
    blank = (0.5,) * space.channels
    network = build_network(space, architecture, blank, blank)
    with seeded(0, "weights that are only timed"):
        shift([network])
    return export_network(network, classes, format_architecture(architecture))


def dearest(space: Space) -> Architecture:
    """Return the network of the block with the most FLOPs in each layer."""
    return tuple(
        max(candidates(space, index), key=lambda name: block_costs(name, layer).flops)
        for index, layer in enumerate(space.layers)
    )


def choose_precision(shaper: Shaper, sentences: list[str]) -> Export:
    """Choose int8 where it is worth it: measured on the default network of a middling width."""
    export = shaper.settings.export
    if shaper.settings.latency.provider != "cpu":
        sentences.append("The file is float: ONNX Runtime computes int8 on the CPU only.")
        return replace(export, quantize="none")
    exact, integer = shaper.measure(FIRST, quantize="none"), shaper.measure(FIRST, quantize="int8")
    faster = exact / integer
    chosen: Precision = "int8" if faster >= WORTH else "none"
    sentences.append(
        f"The file is {'int8' if chosen == 'int8' else 'float'}: int8 is {faster:.2f} times as fast here "
        f"({integer:.3g} ms instead of {exact:.3g} ms for the same network)."
    )
    return replace(export, quantize=chosen)


def choose_dtype(shaper: Shaper, device: torch.device, sentences: list[str]) -> Recipe:
    """Choose bfloat16 for the training's layers where it is worth it: whole steps of a middling network, both ways."""
    recipes = [replace(shaper.settings.recipe, dtype=dtype) for dtype in ("float32", "bfloat16")]
    with one_thread():
        seconds = [time_step(shaper.space(FIRST), one, shaper.classes.size, device=device) for one in recipes]
    faster = seconds[0] / seconds[1]
    chosen = recipes[faster >= WORTH]
    sentences.append(
        f"Layers train in {chosen.dtype}: bfloat16 is {faster:.2f} times as fast here ({1e6 * seconds[1]:.3g} µs an "
        f"image instead of {1e6 * seconds[0]:.3g})."
    )
    return chosen


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A space with what was measured of it."""

    settings: SearchSpace
    space: Space
    costs: TrainingCosts
    measured: dict[str, float]


def choose_shape(shaper: Shaper, images: int, device: torch.device, sentences: list[str]) -> Shape:
    """Choose the widths by the budget, or narrower ones if the minutes allow no wider; time the training."""
    settings, budget = shaper.settings, shaper.settings.budget.first
    limit = limit_of(settings.architecture, budget)
    fitted = fit_width(shaper.measure, limit) if shaper.free else Fitted(width=FIRST, default_ms=shaper.measure(FIRST))
    width = fitted.width
    slowest = shaper.measure(width, dearest(shaper.space(width)))
    time = partial(measure_training, recipe=settings.recipe, threads=settings.threads, device=device)
    costs = time(shaper.space(width))
    if shaper.free:
        sentences.append(
            f"The last stage has {shaper.space_settings(width).stages[-1][0]} channels, so that the default network "
            f"({format_architecture(default_architecture(shaper.space(width)))}) takes {fitted.default_ms:.3g} ms of "
            f"the budget of {budget:g} ms; the slowest network of the space takes about {slowest / budget:.1f} times "
            "the budget."
        )
    minutes = settings.budget.minutes
    while shaper.free and minutes is not None and (below := narrower(width)) is not None:
        machine = Machine(settings=settings, space=shaper.space(width), costs=costs, images=images)
        if 60 * minutes / machine.epoch_seconds >= FEWEST_EPOCHS:
            break
        width = below
        costs = time(shaper.space(width))
    if width != fitted.width:
        sentences.append(
            f"It was made narrower, to {shaper.space_settings(width).stages[-1][0]} channels, because {minutes:g} "
            f"minutes would not train a wider one for {FEWEST_EPOCHS} epochs: the minutes limit the network, not the "
            "milliseconds."
        )
    space = shaper.space(width)
    return Shape(
        settings=shaper.space_settings(width),
        space=space,
        costs=costs,
        measured={"default_ms": fitted.default_ms, "slowest_ms": slowest, "budget_ms": budget},
    )
