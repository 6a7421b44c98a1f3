"""The operations give what PIL gives, element by element, at every size and in colour and grey."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageEnhance, ImageOps, ImageStat

from components.augmentation.operations import ELEMENTS, OPERATIONS, Element, apply_elements, named_element

SIZES = (8, 15, 16, 28, 32, 33, 64)
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


def sample_images(size: int, channels: int) -> UInt8[np.ndarray, "n size size c"]:
    """Noise, smooth ramps, a narrow range, few levels, one level, and black with a little white."""
    rng = np.random.default_rng((size, channels))
    shape = (size, size, channels)
    ramp = np.add.outer(np.arange(size), np.arange(size))[..., None] * np.arange(1, channels + 1)
    images = [
        rng.integers(0, 256, shape),
        rng.integers(0, 256, shape),
        ramp * 255 // ramp.max(),
        rng.integers(90, 140, shape),
        rng.choice([3, 77, 200], shape),
        np.full(shape, 128),
        255 * (rng.random(shape) < 0.02),
    ]
    return np.stack(images).astype(np.uint8)


def pil_image(array: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_matches_pil(element: Element, channels: int) -> None:
    for size in SIZES:
        images = sample_images(size, channels)
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        generator = torch.Generator().manual_seed(size)
        uniforms = torch.rand(len(images), 3, dtype=torch.float64, generator=generator)
        uniforms[::2, 0] = 0.25  # both signs occur
        uniforms[1::2, 0] = 0.75
        chosen = torch.zeros(len(images), dtype=torch.int64)
        ours = apply_elements(batch, (element,), chosen, uniforms).permute(0, 2, 3, 1).numpy()
        for image, mine, (sign, *place) in zip(images, ours, uniforms.tolist(), strict=True):
            m = -element.magnitude if OPERATIONS[element.operation].signed and sign < 0.5 else element.magnitude
            theirs = np.asarray(PIL[element.operation](pil_image(image), m, place)).reshape(image.shape)
            difference = np.abs(theirs.astype(int) - mine.astype(int)).max()
            assert difference <= ALLOWED_LEVELS[element.operation], f"{element} at {size} pixels"


def test_autocontrast_stretches_every_range_of_levels_as_pil_does() -> None:
    images = np.stack(
        [np.arange(256).clip(low, low + spread) for spread in range(256) for low in (0, (255 - spread) // 3)]
    )
    batch = torch.from_numpy(images.astype(np.uint8))[:, None, None]
    stretched = apply_elements(
        batch,
        (Element("AutoContrast"),),
        torch.zeros(len(batch), dtype=torch.int64),
        torch.zeros(len(batch), 3).double(),
    )
    for image, ours in zip(batch[:, 0].numpy(), stretched[:, 0].numpy(), strict=True):
        assert np.array_equal(np.asarray(ImageOps.autocontrast(Image.fromarray(image))), ours), image[0, [0, -1]]


def test_a_mixed_batch_equals_each_image_alone() -> None:
    images = torch.from_numpy(np.tile(sample_images(16, 3), (8, 1, 1, 1))).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(ELEMENTS), (len(images),), generator=generator)
    uniforms = torch.rand(len(images), 3, dtype=torch.float64, generator=generator)
    together = apply_elements(images, ELEMENTS, chosen, uniforms)
    for n in range(len(images)):
        one = slice(n, n + 1)
        assert torch.equal(together[one], apply_elements(images[one], ELEMENTS, chosen[one], uniforms[one]))


def test_the_input_is_not_changed() -> None:
    images = torch.from_numpy(sample_images(16, 1)).permute(0, 3, 1, 2)
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
