"""A name of the race stands for the augmentation and the loss that it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from components.augmentation.distribution import first_distribution, policy_of
from components.augmentation.published import rand_augment, trivial_augment_wide
from components.loss.family import decode
from components.race.choices import FIXED, PLAIN, SEARCHED, augment_of, criterion_of, smoothing_name
from components.settings.augmentation import Augmentation
from components.settings.online import Online
from components.settings.race import Race
from components.settings.recipe import Recipe
from components.training.crop_flip import base_augment
from components.training.loop import Augment

RECIPE = Recipe(crop=2, flip=True, label_smoothing=0.1)
NOWHERE = Path("nowhere.json")
IMAGES = torch.randint(0, 256, (32, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def drawn(augment: Augment) -> torch.Tensor:
    return augment(IMAGES, torch.Generator().manual_seed(5))


def test_plain_augmentation_is_the_recipes_crop_and_flip() -> None:
    assert torch.equal(drawn(augment_of(PLAIN, RECIPE, 16, NOWHERE)), drawn(base_augment(RECIPE)))


@pytest.mark.parametrize(
    ("name", "policy"),
    [("trivial_augment", lambda size: trivial_augment_wide(32)), ("rand_augment", rand_augment)],  # not 32 of 16 pixels
)
def test_a_fixed_policy_follows_the_recipes_crop_and_flip(name: str, policy: object) -> None:
    generator = torch.Generator().manual_seed(5)
    assert callable(policy)
    expected = policy(16)(base_augment(RECIPE)(IMAGES, generator), generator)
    got = drawn(augment_of(name, RECIPE, 16, NOWHERE))
    assert torch.equal(got, expected)
    assert not torch.equal(got, drawn(base_augment(RECIPE)))


def test_the_searched_policy_is_the_one_in_the_file(tmp_path: Path) -> None:
    settings = Augmentation(identity_share=0.2, online=Online(trunks=1, images=1, warmup_trunks=0))
    policy = policy_of(first_distribution(settings))
    (tmp_path / "found.json").write_text(json.dumps(policy.to_json()))
    generator = torch.Generator().manual_seed(5)
    expected = policy.augment()(base_augment(RECIPE)(IMAGES, generator), generator)
    assert torch.equal(drawn(augment_of(SEARCHED, RECIPE, 16, tmp_path / "found.json")), expected)


def test_every_policy_that_the_settings_may_name_is_known() -> None:
    assert set(Race(images=1).augmentations) == FIXED.keys()


def loss(choice: str, found: Path = NOWHERE) -> float:
    x, w = (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((20, 6), (4, 6)))
    return float(criterion_of(choice, RECIPE, found)(x, w, torch.arange(20) % 4))


def cross_entropy(smoothing: float) -> float:
    x, w = (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((20, 6), (4, 6)))
    return float(F.cross_entropy(x @ w.T, torch.arange(20) % 4, label_smoothing=smoothing))


def test_the_plain_loss_has_the_recipes_smoothing_and_others_their_own() -> None:
    assert loss(PLAIN) == cross_entropy(0.1)
    for smoothing in (0.0, 0.05, 0.2, 1 / 3):
        assert loss(smoothing_name(smoothing)) == pytest.approx(cross_entropy(smoothing), abs=1e-6)


def test_the_searched_loss_is_the_one_in_the_file(tmp_path: Path) -> None:
    found = decode(np.array([0.1, 0.2, -0.3, 0.4, 0.2, 0.1, 0.3, -0.1]))
    (tmp_path / "found.json").write_text(json.dumps(found.to_json()))
    x, w = (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((20, 6), (4, 6)))
    assert loss(SEARCHED, tmp_path / "found.json") == float(found(x, w, torch.arange(20) % 4))
    assert loss(SEARCHED, tmp_path / "found.json") != loss(PLAIN)
