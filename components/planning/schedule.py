"""How the minutes are spent: searches, race and final training, from the recorded speed of training on this machine.

n      images of train and val
share  part of the user's seconds, by the wall clock on a quiet machine
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

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
from components.settings.online import Online
from components.settings.parallel import Parallel
from components.settings.race import Race
from components.settings.recipe import Recipe
from components.settings.require import require
from components.settings.space import SearchSpace

S = TypeVar("S")
RACE = 0.2
"""Share of the race; the final training gets what race and searches leave."""
PLENTY, ENOUGH = 80, 30
"""Epochs of the default network that all the minutes must be worth for a thorough and for a short search: with fewer,
more training brings more (ours; docs/lab.md)."""
THOROUGH = {"architecture": 0.125, "augmentation": 0.0625, "loss": 0.0625}
SHORT = {"architecture": 0.0, "augmentation": 0.03, "loss": 0.03}
NONE = dict.fromkeys(THOROUGH, 0.0)
"""Shares of the searches. A short one finds what is plain to see, as images that val has and train has not."""
EPOCHS, STEPS = 30, 3000
"""A training: so many epochs, or so many steps if these are more. Without `budget.minutes` twice that is planned."""
PARALLEL = 0.9
"""Speed of a worker beside others, as a share of a worker alone."""
EVALUATED = 1 / 3
"""Cost of an image that is only evaluated, as a share of one that is trained on."""
PROBES_SECONDS = 6.0
"""Seconds that the loss search's classifiers take whatever the network is (measured on digits)."""
TRUNKS = 3
"""Of an online search."""
MOST_WARMUP = 20.0
"""Epochs of the supernet's warm-up at most."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the plan reads."""

    threads: int
    device: str
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
    """The chosen settings of every search and of the race, and the seconds that all parts are expected to take."""

    settings: dict[str, Any]
    """Setting -> value, also where a person states another."""
    seconds: Seconds
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the parts of the line cost here, for the images at hand."""

    settings: Settings
    space: Space
    costs: TrainingCosts
    images: int
    """Number of images of train and val together."""

    @property
    def workers(self) -> float:
        """Speed of all workers together, as a multiple of one alone."""
        return max(1.0, PARALLEL * self.settings.parallel.workers)

    @property
    def image_seconds(self) -> float:
        """Seconds of a training image of the default network, at full size on one thread."""
        return self.costs.seconds(default_architecture(self.space))

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch of the default network in the final training."""
        return self.costs.final_seconds(default_architecture(self.space)) * self.images

    @property
    def random_image_seconds(self) -> float:
        """Seconds of a training image of a random network."""
        total = self.costs.overhead + self.costs.parts[STEM] + self.costs.parts[HEAD]
        for index, shape in enumerate(self.costs.layers):
            blocks = candidates(self.space, index)
            each = [0.0 if block == IDENTITY else self.costs.parts[part_name(block, shape)] for block in blocks]
            total += float(np.mean(each))
        return total

    def scoring_seconds(self) -> float:
        """Return the seconds that the architecture search's scores take."""
        settings = self.settings.architecture
        scored = sum(evaluations(self.space, settings)) * (settings.score_images + settings.recalibration_images)
        return scored * EVALUATED * self.random_image_seconds / self.workers

    def architecture_seconds(self, settings: Architecture) -> float:
        """Return the seconds of the architecture search."""
        if settings.strategy == "largest":
            return 0.0
        epochs = settings.warmup_epochs + settings.stage_epochs * len(self.space.layers)
        trained = epochs * min(self.images, settings.max_images or self.images)
        return self.scoring_seconds() + trained * self.random_image_seconds / self.costs.speedup

    def augmentation_seconds(self, online: Online) -> float:
        """Return the seconds of the augmentation search; gradients of all elements are taken side by side, and of val
        and as many training images."""
        on_val = min(online.score_images or self.images, self.images)
        probed = (len(ELEMENTS) + 1) * online.probe_images + 2 * on_val if online.one_model else 0
        return self.online_seconds(online, online.trunks * probed * self.image_seconds / self.workers)

    def loss_seconds(self, online: Online) -> float:
        """Return the seconds of the loss search."""
        return self.online_seconds(online, PROBES_SECONDS if online.one_model else 0.0)

    def online_seconds(self, online: Online, fixed: float) -> float:
        if not online.trunks:
            return 0.0
        side_by_side = 1.0 if online.one_model else online.copies / self.workers
        trained = online.head_start + online.trunks * online.images * side_by_side
        return fixed + trained * self.image_seconds

    def race_seconds(self, race: Race, searched: Sequence[str]) -> float:
        """Return the seconds of the race, at most."""
        images = race_images(choices_of(race, searched, self.space), race)
        return images * self.image_seconds * self.costs.small / self.workers


def default_minutes(machine: Machine) -> float:
    """Return the minutes that are planned where a person states none: about twice one training."""
    epochs = max(EPOCHS, STEPS * machine.settings.recipe.batch_size / machine.images)
    return 2 * epochs * machine.epoch_seconds / 60


def make_schedule(machine: Machine, minutes: float) -> Schedule:
    """Divide the minutes, and count what is stated. Raises ValueError if they do not suffice for one epoch."""
    total, stated = 60 * minutes, machine.settings
    epochs = total / machine.epoch_seconds
    require(
        epochs >= 1,
        f"budget.minutes is {minutes:g}, too few for one epoch of the default network on {machine.images} images; use "
        f"at least {1.06 * machine.epoch_seconds / 60:.2g}",  # so that two digits are not too few either
    )
    shares = THOROUGH if epochs >= PLENTY else SHORT if epochs >= ENOUGH else NONE
    chosen = {
        **choose_architecture(machine, shares["architecture"] * total),
        **choose_online(machine, "augmentation", machine.augmentation_seconds, shares["augmentation"] * total),
        **choose_online(machine, "loss", machine.loss_seconds, shares["loss"] * total),
    }
    used = {key: value for key, value in chosen.items() if key in stated.unstated}
    searches = {
        "architecture": machine.architecture_seconds(effective(stated.architecture, used, "architecture.")),
        "augmentation": machine.augmentation_seconds(
            effective(stated.augmentation.online, used, "augmentation.online.")
        ),
        "loss": machine.loss_seconds(effective(stated.loss.online, used, "loss.online.")),
    }
    worth = [word for word, seconds in searches.items() if seconds]
    unit = machine.race_seconds(replace(stated.race, images=1), worth)
    chosen["race.images"] = max(stated.recipe.batch_size, int(RACE * total / unit))
    race = unit * (chosen["race.images"] if "race.images" in stated.unstated else stated.race.images)
    final = max(total - sum(searches.values()) - race, 0.5 * total)
    seconds = Seconds(**searches, race=race, final=final)
    return Schedule(settings=chosen, seconds=seconds, sentences=tuple(tell(machine, minutes, seconds, worth)))


def effective(section: S, used: Mapping[str, Any], prefix: str) -> S:
    """Return the settings with the chosen values of those that begin with the prefix."""
    own = {key.removeprefix(prefix): value for key, value in used.items() if key.startswith(prefix)}
    changed: S = replace(cast(Any, section), **own)
    return changed


def tell(machine: Machine, minutes: float, seconds: Seconds, worth: Sequence[str]) -> Iterator[str]:
    """Say how the minutes are spent, and why."""
    epochs = 60 * minutes / machine.epoch_seconds
    yield (
        f"{minutes:.3g} minutes are {epochs:.0f} epochs of the default network on this machine "
        f"({machine.costs.speedup / machine.image_seconds:,.0f} images a second)."
    )
    if worth:
        yield (
            f"Searched: {', '.join(worth)}, in {seconds.searches / 60:.2g} minutes "
            f"({seconds.searches / seconds.total:.0%})."
        )
    elif epochs < ENOUGH:
        yield (
            f"Nothing is searched: with fewer than {ENOUGH} epochs, longer training brings more. The race compares "
            "fixed rivals."
        )
    else:
        yield "Nothing is searched: what a search costs at least is more than its share of the time."
    yield (
        f"The race takes {seconds.race / 60:.2g} minutes ({seconds.race / seconds.total:.0%}), the final training "
        f"{seconds.final / 60:.2g} ({seconds.final / seconds.total:.0%}): about "
        f"{seconds.final / machine.epoch_seconds:.0f} epochs of the default network."
    )


def choices_of(race: Race, searched: Sequence[str], space: Space) -> list[int]:
    """Return the number of choices of each factor, at most; residual blocks may be the default network already."""
    other = "res_k3" in space.blocks[1:]
    return [
        2 + other + ("architecture" in searched),
        1 + len(race.augmentations) + ("augmentation" in searched),
        1 + len(race.label_smoothing) + ("loss" in searched),
    ]


def choose_architecture(machine: Machine, seconds: float) -> dict[str, Any]:
    """Choose PC-NAS with a supernet that trains in what its scores leave, half of it before stage 1; or no search."""
    left = max(0.0, seconds - machine.scoring_seconds()) * machine.costs.speedup / machine.random_image_seconds
    warmup = round(min(MOST_WARMUP, left / machine.images / 2), 2)
    worth = warmup >= 1
    return {
        "architecture.strategy": "pc_nas" if worth else "largest",
        "architecture.warmup_epochs": warmup if worth else 0.0,
        "architecture.stage_epochs": round(warmup / len(machine.space.layers), 2) if worth else 0.0,
    }


def choose_online(machine: Machine, word: str, cost: Callable[[Online], float], seconds: float) -> dict[str, Any]:
    """Choose the lengths of an online search: half of what its fixed costs leave is warm-up; or no search."""
    batch, stated = machine.settings.recipe.batch_size, getattr(machine.settings, word).online
    fixed = cost(replace(stated, trunks=TRUNKS, images=1, head_start=0))
    images = int((seconds - fixed) / machine.image_seconds)
    worth = images >= 2 * batch * (TRUNKS + 1)
    trunk = images // 2 // TRUNKS
    return {
        f"{word}.online.trunks": TRUNKS if worth else 0,
        f"{word}.online.images": trunk if worth else batch,
        f"{word}.online.head_start": images - trunk * TRUNKS if worth else 0,
    }
