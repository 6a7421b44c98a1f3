"""How the minutes are spent: searches, race and final training, from the recorded speed of training on this machine.

n      images of train and val
share  part of the user's seconds, by the wall clock on a quiet machine
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from components.architecture.parts import HEAD, STEM, part_name
from components.architecture.search import evaluations
from components.architecture.space import IDENTITY, Space, candidates, default_architecture
from components.architecture.training_cost import TrainingCosts
from components.augmentation.operations import ELEMENTS
from components.planning.speeds import Seconds
from components.race.trainings import race_images
from components.settings.architecture import Architecture
from components.settings.augmentation import Augmentation
from components.settings.budget import Budget
from components.settings.data import Data
from components.settings.export import Export
from components.settings.latency import Latency
from components.settings.loss import Loss
from components.settings.parallel import Parallel
from components.settings.race import Race
from components.settings.recipe import Recipe
from components.settings.space import SearchSpace

SEARCHES, RACE = 0.25, 0.2
"""Shares of the searches together, and of the race; the final training gets the rest."""
SPLIT = {"architecture": 0.5, "augmentation": 0.25, "loss": 0.25}
"""How the searches divide their share."""
PLENTY = 80
"""Epochs of the default network that all the minutes must be worth before a quarter of them is searched with: below,
more training brings more than a search (ours; docs/lab.md)."""
EPOCHS, STEPS = 30, 3000
"""A training: so many epochs, or so many steps if these are more. Without `budget.minutes` twice that is planned."""
LEAST_EPOCHS = 1.0
PARALLEL = 0.9
"""Speed of a worker beside others, as a share of a worker alone."""
EVALUATED = 1 / 3
"""Cost of an image that is only evaluated, as a share of one that is trained on."""
PROBES_SECONDS = 6.0
"""Seconds that the loss search's classifiers take whatever the network is (measured on digits)."""
TRUNKS = 4
MOST_WARMUP = 20.0
"""Epochs of the supernet's warm-up at most."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the plan reads."""

    threads: int
    parallel: Parallel
    budget: Budget
    data: Data
    latency: Latency
    space: SearchSpace
    architecture: Architecture
    augmentation: Augmentation
    loss: Loss
    race: Race
    recipe: Recipe
    export: Export
    unstated: frozenset[str]
    """The settings that a person left open (components/settings/planned.py)."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The chosen settings of every search and of the race, and the seconds they are expected to take."""

    settings: dict[str, dict[str, Any]]
    """Section -> setting (dots for further levels) -> value."""
    seconds: Seconds
    sentences: tuple[str, ...]


def epochs_within(seconds: float, costs: TrainingCosts, space: Space, images: int) -> float:
    """Return the epochs of the default network that fit into the seconds."""
    return seconds * costs.speedup / (costs.seconds(default_architecture(space)) * costs.mean * images)


def default_minutes(costs: TrainingCosts, space: Space, images: int, batch: int) -> float:
    """Return the minutes that are planned where a person states none: about twice one training."""
    epochs = max(EPOCHS, STEPS * batch / images)
    return 2 * epochs / epochs_within(60.0, costs, space, images)


def make_schedule(params: Settings, space: Space, costs: TrainingCosts, images: int, minutes: float) -> Schedule:
    """Divide the minutes. Raises ValueError if they do not suffice for one epoch."""
    total, workers = 60 * minutes, max(1.0, PARALLEL * params.parallel.workers)
    each = costs.seconds(default_architecture(space))
    whole = each * costs.mean / costs.speedup
    epochs = epochs_within(total, costs, space, images)
    if epochs < LEAST_EPOCHS:
        needed = LEAST_EPOCHS * whole * images / 60
        raise ValueError(
            f"budget.minutes is {minutes:g}, too few for one epoch of the default network on {images} images; use at "
            f"least {needed:.2g}"
        )
    searching = epochs >= PLENTY
    sentences = [
        f"{minutes:.3g} minutes are {epochs:.0f} epochs of the default network on this machine "
        f"({costs.speedup / each:,.0f} images a second)."
    ]
    chosen, spent = {}, {}
    for word, plan in {"architecture": plan_architecture, "augmentation": plan_augmentation, "loss": plan_loss}.items():
        share = SEARCHES * SPLIT[word] * total if searching else 0.0
        chosen[word], spent[word] = plan(params, space, costs, images, share, workers)
    worth = [word for word, seconds in spent.items() if seconds]
    if worth:
        sentences.append(f"Searched are {' and '.join(worth)}, in {sum(spent.values()) / total:.0%} of the time.")
    else:
        why = f"fewer than {PLENTY} epochs" if not searching else "their fixed costs alone are more than their share"
        sentences.append(f"Nothing is searched ({why}): training longer brings more. The race has fixed rivals.")
    race = RACE * total
    per_unit = race_images(choices_of(params.race, worth), Race(images=1, rungs=params.race.rungs))
    rung = max(params.recipe.batch_size, int(race * workers / (each * costs.small) / per_unit))
    chosen["race"] = {"images": rung}
    race = rung * per_unit * each * costs.small / workers
    final = max(total - sum(spent.values()) - race, 0.5 * total)
    seconds = Seconds(**spent, race=race, final=final)
    sentences.append(
        f"The race takes {race / total:.0%} of the time, the final training {final / total:.0%}: about "
        f"{final / (whole * images):.0f} epochs of the default network."
    )
    return Schedule(settings=chosen, seconds=seconds, sentences=tuple(sentences))


def choices_of(race: Race, searched: list[str]) -> list[int]:
    """Return the number of choices of each factor, at most."""
    return [
        2 + ("architecture" in searched),
        1 + len(race.augmentations) + ("augmentation" in searched),
        1 + len(race.label_smoothing) + ("loss" in searched),
    ]


Planned = tuple[dict[str, Any], float]
"""A search's settings, and the seconds that it is expected to take (0: it is not run)."""


def plan_architecture(
    params: Settings, space: Space, costs: TrainingCosts, images: int, seconds: float, workers: float
) -> Planned:
    settings = params.architecture
    each = mean_seconds(space, costs)
    scored = sum(evaluations(space, settings)) * (settings.score_images + settings.recalibration_images)
    scoring = scored * EVALUATED * each / workers
    trained = max(0.0, seconds - scoring) * costs.speedup / each
    share = round(min(MOST_WARMUP, trained / images / 2), 2)
    if share < 1:
        return {"strategy": "largest", "warmup_epochs": 0.0, "stage_epochs": 0.0}, 0.0
    stage = round(share / len(space.layers), 2)
    spent = scoring + (share + stage * len(space.layers)) * images * each / costs.speedup
    return {"strategy": "pc_nas", "warmup_epochs": share, "stage_epochs": stage}, spent


def plan_augmentation(
    params: Settings, space: Space, costs: TrainingCosts, images: int, seconds: float, workers: float
) -> Planned:
    online = params.augmentation.online
    each = costs.seconds(default_architecture(space))
    probes = TRUNKS * (len(ELEMENTS) + 2) * online.probe_images * each / workers
    return plan_online(params, each, seconds, probes)


def plan_loss(
    params: Settings, space: Space, costs: TrainingCosts, images: int, seconds: float, workers: float
) -> Planned:
    each = costs.seconds(default_architecture(space))
    return plan_online(params, each, seconds, PROBES_SECONDS)


def plan_online(params: Settings, each: float, seconds: float, fixed: float) -> Planned:
    """Half of what the fixed costs leave is warm-up training, half is trained in the trunks."""
    batch = params.recipe.batch_size
    images = int((seconds - fixed) / each)
    if images < 2 * batch * (TRUNKS + 1):
        return {"online.trunks": 0, "online.images": batch, "online.head_start": 0}, 0.0
    trunk = images // 2 // TRUNKS
    chosen = {"online.trunks": TRUNKS, "online.images": trunk, "online.head_start": images - trunk * TRUNKS}
    return chosen, fixed + images * each


def mean_seconds(space: Space, costs: TrainingCosts) -> float:
    """Return the seconds of a training image of a random network."""
    total = costs.overhead + costs.parts[STEM] + costs.parts[HEAD]
    for index, shape in enumerate(costs.layers):
        blocks = candidates(space, index)
        total += float(np.mean([0.0 if b == IDENTITY else costs.parts[part_name(b, shape)] for b in blocks]))
    return total
