"""The operations give what PIL gives, element by element, at every size and in colour and grey."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageEnhance, ImageOps, ImageStat
from torch import Tensor

from components.augmentation.operations import (
    ELEMENTS,
    OPERATIONS,
    Element,
    apply_elements,
    blend,
    luma,
    named_element,
)

SIZES = ((8, 8), (9, 13), (15, 15), (16, 16), (28, 28), (20, 33), (33, 20), (32, 32), (33, 33), (8, 64), (64, 64))
"""Height and width."""
ALLOWED_LEVELS = dict.fromkeys(OPERATIONS, 0)
"""Largest difference from PIL that each operation may show: none of them needs one."""


def affine(image: Image.Image, *coefficients: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST)


def cut_out(image: Image.Image, share: float, down: float, across: float) -> Image.Image:
    side = round(share * image.width)
    top = math.floor(down * image.height) - side // 2
    left = math.floor(across * image.width) - side // 2
    covered = image.copy()
    mean = tuple(int(value + 0.5) for value in ImageStat.Stat(image).mean)
    ImageDraw.Draw(covered).rectangle((left, top, left + side - 1, top + side - 1), fill=mean)
    return covered


PIL = {
    "Identity": lambda image, m, place: image,
    "ShearX": lambda image, m, place: affine(image, 1, m, 0, 0, 1, 0),
    "ShearY": lambda image, m, place: affine(image, 1, 0, 0, m, 1, 0),
    "TranslateX": lambda image, m, place: affine(image, 1, 0, m * image.width, 0, 1, 0),
    "TranslateY": lambda image, m, place: affine(image, 1, 0, 0, 0, 1, m * image.height),
    "Rotate": lambda image, m, place: image.rotate(m),
    "Color": lambda image, m, place: ImageEnhance.Color(image).enhance(1 + m),
    "Contrast": lambda image, m, place: ImageEnhance.Contrast(image).enhance(1 + m),
    "Sharpness": lambda image, m, place: ImageEnhance.Sharpness(image).enhance(1 + m),
    "Brightness": lambda image, m, place: ImageEnhance.Brightness(image).enhance(1 + m),
    "Posterize": lambda image, m, place: ImageOps.posterize(image, int(m)),
    "Solarize": lambda image, m, place: ImageOps.solarize(image, int(m)),
    "AutoContrast": lambda image, m, place: ImageOps.autocontrast(image),
    "Equalize": lambda image, m, place: ImageOps.equalize(image),
    "Invert": lambda image, m, place: ImageOps.invert(image),
    "Cutout": lambda image, m, place: cut_out(image, m, *place),
}


def sample_images(height: int, width: int, channels: int) -> UInt8[np.ndarray, "n height width c"]:
    """Noise, gradients three ways, a narrow range, few levels, one level, and black with a little white."""
    rng = np.random.default_rng((height, width, channels))
    shape = (height, width, channels)
    down, across = np.mgrid[:height, :width, :1][:2] * np.arange(1, channels + 1)
    images = [
        rng.integers(0, 256, shape),
        rng.integers(0, 256, shape),
        *(ramp * 255 // ramp.max() for ramp in (down, across, down + across)),
        rng.integers(90, 140, shape),
        rng.choice([3, 77, 200], shape),
        *(np.full(shape, level) for level in (0, 128, 255)),
        255 * (rng.random(shape) < 0.02),
    ]
    return np.stack(images).astype(np.uint8)


def pil_image(array: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_matches_pil(element: Element, channels: int) -> None:
    for height, width in SIZES:
        images = np.repeat(sample_images(height, width, channels), 2, axis=0)
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        generator = torch.Generator().manual_seed(height * width)
        uniforms = torch.rand(len(images), 3, dtype=torch.float64, generator=generator)
        uniforms[::2, 0] = 0.25  # every image with both signs
        uniforms[1::2, 0] = 0.75
        chosen = torch.zeros(len(images), dtype=torch.int64)
        ours = apply_elements(batch, (element,), chosen, uniforms).permute(0, 2, 3, 1).numpy()
        for image, mine, (sign, *place) in zip(images, ours, uniforms.tolist(), strict=True):
            m = -element.magnitude if OPERATIONS[element.operation].signed and sign < 0.5 else element.magnitude
            theirs = np.asarray(PIL[element.operation](pil_image(image), m, place)).reshape(image.shape)
            difference = np.abs(theirs.astype(int) - mine.astype(int)).max()
            assert difference <= ALLOWED_LEVELS[element.operation], f"{element} at {height} x {width} pixels"


def test_autocontrast_matches_pil_for_every_darkest_and_lightest_level() -> None:
    low, high = np.triu_indices(256, 1)
    ranges = np.linspace(low, high, 16 * 16).round().astype(np.uint8).T.reshape(-1, 3, 16, 16)  # three to an image
    element = named_element("AutoContrast")
    zeros = torch.zeros(len(ranges), dtype=torch.int64)
    ours = apply_elements(torch.from_numpy(ranges), (element,), zeros, torch.zeros(len(ranges), 3).double())
    theirs = [np.asarray(ImageOps.autocontrast(Image.fromarray(image))) for image in ranges.transpose(0, 2, 3, 1)]
    np.testing.assert_array_equal(ours.permute(0, 2, 3, 1).numpy(), np.stack(theirs))


def test_equalize_matches_pil_for_many_histograms() -> None:
    rng = np.random.default_rng(0)
    skew = rng.uniform(0.2, 5, (1500, 1, 1, 3))
    images = (256 * rng.random((1500, 24, 24, 3)) ** skew).astype(np.uint8)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    zeros = torch.zeros(len(images), dtype=torch.int64)
    ours = apply_elements(batch, (named_element("Equalize"),), zeros, torch.zeros(len(images), 3).double())
    theirs = [np.asarray(ImageOps.equalize(Image.fromarray(image))) for image in images]
    np.testing.assert_array_equal(ours.permute(0, 2, 3, 1).numpy(), np.stack(theirs))


@pytest.mark.parametrize("m", [-0.9, -0.6, -0.3, 0.3, 0.6, 0.9])
def test_blend_matches_pil_for_every_pair_of_levels(m: float) -> None:
    image, degenerate = np.mgrid[:256, :256].astype(np.uint8)
    ours = blend(
        torch.from_numpy(image)[None, ..., None],
        torch.tensor([m], dtype=torch.float64),
        torch.from_numpy(degenerate)[None, ..., None].float(),
    )
    theirs = Image.blend(Image.fromarray(degenerate), Image.fromarray(image), 1 + m)
    np.testing.assert_array_equal(ours[0, ..., 0].numpy(), np.asarray(theirs))


def test_grey_levels_match_pil_for_colours_all_over_the_cube() -> None:
    levels = np.unique(np.append(np.arange(0, 256, 5), [1, 2, 127, 128, 254])).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    theirs = np.asarray(Image.fromarray(colours).convert("L"))
    np.testing.assert_array_equal(luma(torch.from_numpy(colours)[None])[0].numpy(), theirs)


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 12, 20), (1, 16, 16)], ids=str)
def test_the_layout_in_memory_changes_nothing(shape: tuple[int, int, int]) -> None:
    batch, chosen, uniforms = mixed_batch(*shape)
    other = batch.contiguous(memory_format=torch.channels_last)
    assert torch.equal(
        apply_elements(batch.contiguous(), ELEMENTS, chosen, uniforms),
        apply_elements(other, ELEMENTS, chosen, uniforms),
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_accelerator_gives_the_same_images() -> None:
    given = mixed_batch(3, 32, 32)
    batch, chosen, uniforms = (values.cuda() for values in given)
    there = apply_elements(batch, ELEMENTS, chosen, uniforms)
    assert torch.equal(there.cpu(), apply_elements(given[0], ELEMENTS, *given[1:]))


def mixed_batch(channels: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every sample image with eight random elements."""
    images = np.tile(sample_images(height, width, channels), (8, 1, 1, 1))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(ELEMENTS), (len(images),), generator=generator)
    uniforms = torch.rand(len(images), 3, dtype=torch.float64, generator=generator)
    return torch.from_numpy(images).permute(0, 3, 1, 2), chosen, uniforms


def test_a_mixed_batch_equals_each_image_alone() -> None:
    images, chosen, uniforms = mixed_batch(3, 16, 16)
    together = apply_elements(images, ELEMENTS, chosen, uniforms)
    for n in range(len(images)):
        one = slice(n, n + 1)
        assert torch.equal(together[one], apply_elements(images[one], ELEMENTS, chosen[one], uniforms[one]))


def test_no_images_are_no_images() -> None:
    images, chosen, uniforms = mixed_batch(3, 16, 16)
    assert apply_elements(images[:0], ELEMENTS, chosen[:0], uniforms[:0]).shape == (0, 3, 16, 16)


def test_the_input_is_not_changed() -> None:
    images = torch.from_numpy(sample_images(16, 16, 1)).permute(0, 3, 1, 2)
    before = images.clone()
    for k in range(len(ELEMENTS)):
        apply_elements(images, ELEMENTS, torch.full((len(images),), k), torch.full((len(images), 3), 0.6).double())
    assert torch.equal(images, before)


def test_the_space_is_the_papers_36_elements_with_identity_and_cutout() -> None:
    names = [element.operation for element in ELEMENTS]
    assert len(ELEMENTS) == 36 + 2
    assert names.count("Identity") == names.count("Cutout") == 1
    assert len(set(map(str, ELEMENTS))) == len(ELEMENTS)


def test_names_read_back_and_unknown_names_are_refused() -> None:
    assert [named_element(str(element)) for element in ELEMENTS] == list(ELEMENTS)
    with pytest.raises(ValueError, match=r"no augmentation element 'ShearZ 0\.1'; use one of Identity"):
        named_element("ShearZ 0.1")
