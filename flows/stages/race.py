"""Stage `race`: train what could ship side by side for a short time, judge it on val, and decide what ships.

The winner's weights are where its final training starts. The best that needs no search is trained as the baseline, for
the epochs that make it equal in compute to the searches, the race and the final training together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from components.architecture.budget import budget_of
from components.architecture.costs import within_memory
from components.architecture.largest import largest_within
from components.architecture.latency import LatencyTable
from components.architecture.network import make_network
from components.architecture.parts import repeat_block
from components.architecture.space import (
    Architecture,
    Space,
    default_architecture,
    format_architecture,
    parse_architecture,
    space_of,
)
from components.data.store import Classes, open_split, read_classes, read_statistics
from components.planning.speeds import Speeds
from components.race import choices
from components.race.choices import PLAIN, augment_of, criterion_of, smoothing_name
from components.race.halving import FACTORS, Choice, Decision, Row, Standing, gain, race
from components.race.trainings import Trainings
from components.settings.architecture import Architecture as ArchitectureSettings
from components.settings.augmentation import Augmentation
from components.settings.budget import Budget
from components.settings.loss import Loss
from components.settings.parallel import Parallel
from components.settings.race import Race
from components.settings.recipe import Recipe
from components.settings.space import SearchSpace
from components.settings.variants import BASELINE, SEARCHED
from components.training.devices import Devices
from flows.checkout import files, paths
from flows.resume.race import with_replay
from flows.runtime.devices import devices_of
from flows.runtime.observer import Observer
from flows.runtime.workers import joblib_parallel

RESIDUAL = "res_k3"


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The settings that the stage reads; dvc.yaml lists the same."""

    seed: int
    device: str
    parallel: Parallel
    budget: Budget
    space: SearchSpace
    architecture: ArchitectureSettings
    augmentation: Augmentation
    loss: Loss
    race: Race
    recipe: Recipe


def run(params: Reads, observe: Observer, checkpoint: Path) -> None:
    """Write every rung, every decision, what each variant trains, and the winner's weights."""
    devices = devices_of(params.device)
    classes = read_classes(paths.CLASSES)
    speeds = Speeds.from_json(files.read_json(paths.SPEEDS))
    factors, labels = factors_of(params, classes), open_split(paths.VAL).labels
    trainings = trainings_of(params, classes, speeds, factors, devices)
    run_heats = partial(trainings.run, joblib_parallel(params.parallel, observe, "candidates"))
    resumed = with_replay(run_heats, checkpoint)
    standings: list[Standing] = []
    racing = race(factors, resumed, torch.from_numpy(labels.copy()), params.race)
    for standing in observe.progress(racing, len(factors), "race"):
        standings.append(standing)
        observe.metrics(race_metrics(standing), step=len(standings))
    files.write_csv(paths.RUNGS, [asdict(row) for one in standings for row in one.rows])
    record = {
        "decisions": [decision_record(one.decision) for one in standings],
        "variants": variant_records(standings[-1]),
    }
    files.write_json(paths.DECIDED, record)
    files.write_bytes(paths.BEGUN, save({k: v.cpu().contiguous() for k, v in standings[-1].heat.state.items()}))
    for file in (paths.RUNGS, paths.DECIDED):
        observe.file(file)


def factors_of(params: Reads, classes: Classes) -> dict[str, list[Choice]]:
    """Return the choices of every factor, those first that need no search."""
    space = within_memory(space_of(params.space, classes), params.architecture)
    found = files.read_json(paths.FOUND_ARCHITECTURE)
    plain = [format_architecture(one) for one in plain_architectures(params, space)]
    architectures = [Choice(value=text, plain=True) for text in dict.fromkeys(plain)]
    if found["architecture"] not in plain:
        architectures.append(Choice(value=found["architecture"], plain=False))
    augmentations: list[str] = list(params.race.augmentations)
    losses = [smoothing_name(e) for e in params.race.label_smoothing if e != params.recipe.label_smoothing]
    if params.augmentation.online.trunks:
        augmentations.append(choices.SEARCHED)
    if params.loss.online.trunks:
        losses.append(choices.SEARCHED)
    chosen = (architectures, with_plain(augmentations), with_plain(losses))
    return dict(zip(FACTORS, chosen, strict=True))


def with_plain(others: Sequence[str]) -> list[Choice]:
    return [Choice(value=PLAIN, plain=True), *(Choice(value=one, plain=False) for one in others)]


def plain_architectures(params: Reads, space: Space) -> Iterator[Architecture]:
    """Yield the networks within the limits that one would train without a search: the default one, residual blocks
    everywhere, and the largest."""
    table = LatencyTable.from_json(files.read_json(paths.LATENCY_TABLE))
    budget = budget_of(space, table.predict, params.architecture, params.budget.first)
    for one in (default_architecture(space), repeat_block(space, RESIDUAL) if RESIDUAL in space.blocks else None):
        if one is not None and budget.spare(one) >= 0:
            yield one
    yield largest_within(budget)


def trainings_of(
    params: Reads, classes: Classes, speeds: Speeds, factors: dict[str, list[Choice]], devices: Devices
) -> Trainings:
    """Set up the short trainings of every choice."""
    statistics, recipe = read_statistics(paths.STATISTICS), params.recipe
    space = space_of(params.space, classes)
    seconds = {
        choice.value: speeds.costs.seconds(parse_architecture(space, choice.value)) for choice in factors[FACTORS[0]]
    }
    default = speeds.costs.seconds(default_architecture(space))
    augments = {
        one.value: augment_of(one.value, recipe, classes.size, paths.FOUND_AUGMENTATION) for one in factors[FACTORS[1]]
    }
    criteria = {one.value: criterion_of(one.value, recipe, paths.FOUND_LOSS) for one in factors[FACTORS[2]]}
    return Trainings(
        make=partial(make_network, params.space, classes, statistics, seed=params.seed),
        augments=augments,
        criteria=criteria,
        costs={value: each / default for value, each in seconds.items()},
        train=open_split(paths.TRAIN),
        val=open_split(paths.VAL),
        recipe=recipe,
        settings=params.race,
        seed=params.seed,
        devices=devices,
    )


def variant_records(last: Standing) -> dict[str, dict[str, Any]]:
    """Return what each variant trains, and how many images it has seen when its final training begins."""
    return {
        SEARCHED: last.setup._asdict() | {"begun": True, "images": last.heat.images},
        BASELINE: last.plain._asdict() | {"begun": False, "images": 0},
    }


def decision_record(decision: Decision) -> dict[str, Any]:
    lead = gain(decision)
    shown = dict(zip(("gain", "gain_low", "gain_high"), lead or (None,) * 3, strict=True))
    return asdict(decision) | shown


def race_metrics(standing: Standing) -> dict[str, float]:
    """Return the accuracy on val of every choice after the last rung that it took part in."""
    last: dict[str, Row] = {row.choice: row for row in standing.rows if not row.fault}
    factor = standing.decision.factor
    values = {f"race/{factor}/{name_of(place, row)}": row.accuracy for place, row in enumerate(last.values())}
    return values | {"race/accuracy": max((row.accuracy for row in last.values()), default=0.0)}


def name_of(place: int, row: Row) -> str:
    """Return a short name for a metric: networks are numbered, because their texts are too long."""
    return f"network_{place + 1}" if row.factor == FACTORS[0] else row.choice.replace(" ", "_")
