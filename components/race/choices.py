"""What the choices of the race stand for: the augmentation and the loss of a name."""

import json
from collections.abc import Callable
from pathlib import Path

from components.augmentation.policy import AugmentPairs, Policy
from components.augmentation.published import rand_augment, trivial_augment_wide
from components.loss.family import read_loss
from components.settings.recipe import Recipe
from components.training.crop_flip import base_augment, compose
from components.training.loop import Augment, Criterion, cross_entropy

PLAIN, SEARCHED = "plain", "searched"
SMALLEST = 32
"""TrivialAugment moves images by up to 32 pixels; smaller ones by the share of the side that this is of 32 (ours)."""
FIXED: dict[str, Callable[[int], AugmentPairs]] = {
    "trivial_augment": lambda size: trivial_augment_wide(max(size, SMALLEST)),
    "rand_augment": rand_augment,
}
SMOOTHING = "smoothing"


def augment_of(choice: str, recipe: Recipe, size: int, found: Path) -> Augment:
    """Return the augmentation of a choice after the recipe's crop and flip; `found` holds the searched policy."""
    base = base_augment(recipe)
    if choice == PLAIN:
        return base
    if choice == SEARCHED:
        policy = Policy.from_json(json.loads(found.read_text(encoding="utf-8")))
        return compose(base, policy.augment())
    return compose(base, FIXED[choice](size))


def criterion_of(choice: str, recipe: Recipe, found: Path) -> Criterion:
    """Return the loss of a choice; `found` holds the searched one."""
    if choice == SEARCHED:
        return read_loss(found)
    return cross_entropy(recipe.label_smoothing if choice == PLAIN else float(choice.removeprefix(SMOOTHING)))


def smoothing_name(smoothing: float) -> str:
    """Return the name of the choice of cross-entropy with that label smoothing."""
    return f"{SMOOTHING} {smoothing:g}"
