"""A policy outside the project draws what it says, on every kind of image, and so does its export to torchvision."""

import io
import json
import pickle
import pickletools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from components.augmentation.distribution import first_distribution, policy_of
from components.augmentation.operations import ELEMENTS, OPERATIONS, Element, apply_elements
from components.augmentation.policy import Policy
from components.augmentation.torchvision_export import (
    GREY,
    TORCHVISION,
    PolicyTransform,
    load_policy,
    torchvision_pairs,
    torchvision_transform,
)
from components.settings.augmentation import Augmentation
from components.settings.online import Online

COLOUR = ["grey", "colour"]


def uniform_policy() -> Policy:
    return policy_of(first_distribution(Augmentation(online=Online(trunks=1, images=8, warmup_trunks=0))))


def policy(shares: dict[tuple[str, str], float]) -> Policy:
    names = [str(element) for element in ELEMENTS]
    joint = np.zeros((len(names), len(names)))
    for (first, second), share in shares.items():
        joint[names.index(first), names.index(second)] = share
    return Policy(ELEMENTS, joint)


def photographs(size: int) -> UInt8[np.ndarray, "n size size 3"]:
    """Tiles of two photographs, scaled down."""
    tiles = []
    for photograph in load_sample_images().images:
        small = Image.fromarray(photograph).resize((size * 4, size * 3), Image.Resampling.BOX)
        tiles += [small.crop((x, y, x + size, y + size)) for x in range(0, size * 4, size) for y in (0, size, 2 * size)]
    return np.stack([np.asarray(tile) for tile in tiles])


def images(size: int = 32, grey: bool = False) -> Tensor:
    photos = photographs(size)
    if grey:
        photos = np.stack([np.asarray(Image.fromarray(photo).convert("L")) for photo in photos])[..., None]
    return torch.from_numpy(photos).permute(0, 3, 1, 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- as a module


def test_a_file_becomes_a_transform_in_one_line_and_gives_the_searchs_own_pixels(tmp_path: Path) -> None:
    (tmp_path / "augmentation.json").write_text(json.dumps(uniform_policy().to_json()))
    transform = load_policy(tmp_path / "augmentation.json", generator=seeded())
    assert isinstance(transform, torch.nn.Module)
    assert torch.equal(transform(images()), uniform_policy().augment()(images(), seeded()))


@pytest.mark.parametrize("grey", [True, False], ids=COLOUR)
def test_every_kind_of_image_gets_the_same_augmentation_and_keeps_its_type(grey: bool) -> None:
    image = images(grey=grey)[0]
    kinds = [image, image[None], image[None, None], tv_tensors.Image(image), F.to_pil_image(image)]
    for kind in kinds:
        got = PolicyTransform(uniform_policy(), seeded(3))(kind)
        assert type(got) is type(kind) or isinstance(got, Image.Image)
        pixels = F.pil_to_tensor(got) if isinstance(got, Image.Image) else got.as_subclass(Tensor)
        assert torch.equal(pixels.reshape(image.shape), uniform_policy().augment()(image[None], seeded(3))[0])
        assert kind.shape == got.shape if isinstance(kind, Tensor) else kind.mode == got.mode


def test_it_works_in_a_compose_and_leaves_labels_alone() -> None:
    chain = v2.Compose(
        [
            v2.ToImage(),
            PolicyTransform(policy({("Invert", "Identity"): 1.0})),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    label = torch.tensor([1, 2])
    image, same = chain(F.to_pil_image(images()[0]), label)
    assert same is label
    assert torch.allclose(image, 1 - images()[0] / 255)


def test_each_image_of_a_batch_draws_its_own_pair() -> None:
    half = policy({("Invert", "Identity"): 0.5, ("Identity", "Identity"): 0.5})
    batch = images()[:1].expand(1000, -1, -1, -1)
    inverted = (PolicyTransform(half, seeded())(batch) == 255 - batch).flatten(1).all(1)
    assert inverted.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_random_numbers_come_from_torchs_global_generator_or_from_the_one_given() -> None:
    transform = PolicyTransform(uniform_policy())
    with torch.random.fork_rng(devices=[]):
        results = []
        for _ in range(2):
            torch.default_generator.manual_seed(7)
            results.append(transform(images()))
        assert torch.equal(*results)
        assert not torch.equal(results[0], transform(images()))
        before = torch.get_rng_state()
        PolicyTransform(uniform_policy(), seeded())(images())
        assert torch.equal(before, torch.get_rng_state())


def test_it_travels_to_the_workers_of_a_loader() -> None:
    copy = pickle.loads(pickle.dumps(PolicyTransform(uniform_policy())))
    copy.generator = seeded()
    assert torch.equal(copy(images()), PolicyTransform(uniform_policy(), seeded())(images()))


@pytest.mark.parametrize(
    "wrong", [torch.rand(3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8)]
)
def test_what_is_no_image_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"give it uint8 \[\.\.\. c h w\] with 1 or 3 channels"):
        PolicyTransform(uniform_policy())(wrong)


@pytest.mark.parametrize("mode", ["P", "RGBA", "1"])
def test_a_pil_image_whose_numbers_are_no_levels_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode}; convert it to L or RGB"):
        PolicyTransform(uniform_policy())(F.to_pil_image(images()[0]).convert(mode))


def test_boxes_are_refused_because_they_would_not_move_along() -> None:
    boxes = tv_tensors.BoundingBoxes([[0, 0, 4, 4]], format="XYXY", canvas_size=(32, 32))
    with pytest.raises(TypeError, match="augments images, not BoundingBoxes"):
        PolicyTransform(uniform_policy())(tv_tensors.Image(images()[0]), boxes)


# --- as torchvision's transforms


LEVELS = {"Color": 1, "Contrast": 1, "Sharpness": 1, "AutoContrast": 1}
"""Largest difference on tensors: torchvision cuts off where PIL rounds, and weighs grey in single precision."""
MOVED = {"ShearX": 0.1, "ShearY": 0.1, "Rotate": 0.02}
"""Largest share of pixels on tensors that a source half-way between two pixels gives to the other one."""


def signs(element: Element) -> tuple[float, ...]:
    return (0.25, 0.75) if OPERATIONS[element.operation].signed else (0.75,)


@pytest.mark.parametrize("grey", [True, False], ids=COLOUR)
@pytest.mark.parametrize("element", [element for element in ELEMENTS if element.operation != "Cutout"], ids=str)
def test_torchvisions_element_is_ours_on_pil_images_and_nearly_so_on_tensors(element: Element, grey: bool) -> None:
    for size in (32, 33):
        batch = images(size, grey)
        for sign in signs(element):
            uniforms = torch.full((len(batch), 3), sign, dtype=torch.float64)
            ours = apply_elements(batch, (element,), torch.zeros(len(batch), dtype=torch.int64), uniforms)
            theirs = TORCHVISION[element.operation](element.magnitude if sign > 0.5 else -element.magnitude, size)
            for image, mine in zip(batch, ours, strict=True):
                assert torch.equal(F.pil_to_tensor(theirs(F.to_pil_image(image))), mine)
            difference = (theirs(batch).int() - ours.int()).abs().amax(dim=1)
            beyond = (difference > LEVELS.get(element.operation, 0)).double().mean().item()
            assert beyond <= MOVED.get(element.operation, 0.0)


def test_the_exported_cutout_covers_the_same_squares_with_grey() -> None:
    """Every place that our centre can take, edges included, and no other."""
    size, cut = 6, TORCHVISION["Cutout"](0.5, 6)
    blank = torch.zeros(1, size, size, dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        theirs = {(cut(blank) == GREY).numpy().tobytes() for _ in range(1000)}
    ours = set()
    for row in range(size):
        for column in range(size):
            covered = torch.zeros_like(blank, dtype=torch.bool)
            covered[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
            ours.add(covered.numpy().tobytes())
    assert theirs == ours


def test_a_signed_element_goes_both_ways_and_the_first_goes_first() -> None:
    certain = policy({("Brightness 0.9", "Posterize 4"): 1.0})
    ((share, transforms),) = torchvision_pairs(certain, 32)
    assert share == 1.0
    image = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        seen = Counter(transforms(image).flatten()[0].item() for _ in range(60))
    assert set(seen) == {0, 176}  # 10 -> 0 and 190 -> 176
    assert min(seen.values()) > 15


def test_pairs_are_drawn_by_their_probability() -> None:
    drawn = torchvision_transform(policy({("Invert", "Identity"): 0.3, ("Identity", "Identity"): 0.7}), 32)
    assert drawn.p == pytest.approx([0.7, 0.3])
    pairs = torchvision_pairs(uniform_policy(), 32)
    assert len(pairs) == len(uniform_policy().elements) ** 2
    assert sum(share for share, _ in pairs) == pytest.approx(1)


def test_the_export_needs_none_of_our_code() -> None:
    """Saved, it names modules of torch and torchvision only."""
    file = io.BytesIO()
    pickle.dump(torchvision_transform(uniform_policy(), 32), file)
    words = {argument for _, argument, _ in pickletools.genops(file.getvalue()) if isinstance(argument, str)}
    assert any(word.startswith("torchvision.") for word in words)
    assert not [word for word in words if word.split(".")[0] in ("components", "flows", "tests")]


def test_the_export_shows_what_it_does_also_when_it_was_saved() -> None:
    ((_, transforms),) = torchvision_pairs(policy({("Rotate 30", "Solarize 102"): 1.0}), 32)
    for shown in (repr(transforms), repr(pickle.loads(pickle.dumps(transforms)))):
        assert "rotate {'angle': 30.0}" in shown
        assert "rotate {'angle': -30.0}" in shown
        assert "solarize {'threshold': 102.0}" in shown
