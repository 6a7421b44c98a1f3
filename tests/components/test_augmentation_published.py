"""The published policies are torchvision's: the same elements as often, the same pixels from each of them."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image
from torchvision.transforms import v2

from components.augmentation.operations import OPERATIONS, Element, apply_elements
from components.augmentation.policy import AugmentPairs
from components.augmentation.published import auto_augment_cifar10, rand_augment, trivial_augment_wide
from tests.components.test_augmentation_torchvision_export import photographs

Pair = tuple[Element, Element]

SIZES = (16, 32)


def shares_of(augment: AugmentPairs) -> dict[Pair, float]:
    weights = np.diff(augment.edges.numpy(), prepend=0)
    pairs = [(augment.elements[first], augment.elements[second]) for first, second in augment.pairs.tolist()]
    assert len(set(pairs)) == len(pairs)
    return dict(zip(pairs, weights.tolist(), strict=True))


def element(name: str, magnitude: float, size: int) -> Element:
    """torchvision's operation and magnitude in our units: a part of the side, a grey level."""
    units: dict[str, Callable[[float], float]] = {
        "TranslateX": lambda m: int(m) / size,
        "TranslateY": lambda m: int(m) / size,
        "Solarize": lambda m: 255.0 * m,
    }
    return Element(name, units.get(name, float)(magnitude))


def levels_of(theirs: object, name: str, bins: int, size: int) -> list[float]:
    levels, signed = theirs._AUGMENTATION_SPACE[name]  # type: ignore[attr-defined]
    assert signed == OPERATIONS[name].signed
    values = levels(bins, size, size)
    return [0.0] if values is None else values.tolist()


def same(ours: dict[Pair, float], theirs: Counter[Pair]) -> bool:
    return ours.keys() == theirs.keys() and all(ours[pair] == pytest.approx(theirs[pair]) for pair in ours)


NOTHING = Element("Identity")


@pytest.mark.parametrize("size", SIZES)
def test_trivial_augment_draws_as_torchvision_does(size: int) -> None:
    theirs = v2.TrivialAugmentWide()
    names = list(theirs._AUGMENTATION_SPACE)
    expected: Counter[Pair] = Counter()
    for name in names:
        levels = levels_of(theirs, name, 31, size)
        for level in levels:
            expected[element(name, level, size), NOTHING] += 1 / len(names) / len(levels)  # type: ignore[assignment]
    assert same(shares_of(trivial_augment_wide(size)), expected)


@pytest.mark.parametrize(("magnitude", "bins"), [(9, 31), (0, 31), (30, 31), (5, 10)])
def test_rand_augment_draws_as_torchvision_does(magnitude: int, bins: int) -> None:
    theirs = v2.RandAugment(num_ops=2, magnitude=magnitude, num_magnitude_bins=bins)
    each = []
    for name in theirs._AUGMENTATION_SPACE:
        levels = levels_of(theirs, name, bins, 32)
        each.append(element(name, levels[magnitude] if len(levels) > 1 else 0.0, 32))
    expected: Counter[Pair] = Counter({(first, second): 1 / len(each) ** 2 for first in each for second in each})
    assert same(shares_of(rand_augment(32, magnitude=magnitude, bins=bins)), expected)
    single: Counter[Pair] = Counter({(first, NOTHING): 1 / len(each) for first in each})
    assert same(shares_of(rand_augment(32, operations=1, magnitude=magnitude, bins=bins)), single)


@pytest.mark.parametrize("size", SIZES)
def test_auto_augment_draws_as_torchvision_does(size: int) -> None:
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    expected: Counter[Pair] = Counter()
    assert len(theirs._policies) == 25
    for (first, p, m), (second, q, n) in theirs._policies:
        one = element(first, levels_of(theirs, first, 10, size)[m or 0], size)
        two = element(second, levels_of(theirs, second, 10, size)[n or 0], size)
        for pair, share in (
            ((one, two), p * q),
            ((one, NOTHING), p * (1 - q)),
            ((NOTHING, two), (1 - p) * q),
            ((NOTHING, NOTHING), (1 - p) * (1 - q)),
        ):
            expected[pair] += share / 25  # type: ignore[assignment]
    expected = Counter({pair: share for pair, share in expected.items() if share > 0})
    assert same(shares_of(auto_augment_cifar10(size)), expected)


# --- pixels


def by_torchvision(image: Image.Image, name: str, magnitude: float, size: int) -> UInt8[np.ndarray, "h w c"]:
    """Their way to write an element: translations in pixels and the other way round, Solarize's level in 0..1."""
    units: dict[str, Callable[[float], float]] = {
        "TranslateX": lambda m: -round(m * size),
        "TranslateY": lambda m: -round(m * size),
        "Solarize": lambda m: m / 255,
    }
    theirs = v2.AutoAugment()._apply_image_or_video_transform(
        image, name, units.get(name, float)(magnitude), v2.InterpolationMode.NEAREST, {}
    )
    return np.asarray(theirs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "policy", [trivial_augment_wide, rand_augment, auto_augment_cifar10], ids=["trivial", "rand", "auto"]
)
def test_every_element_gives_torchvisions_pixels(policy: Callable[[int], AugmentPairs], size: int) -> None:
    images = photographs(size)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    uniforms = torch.full((len(images), 3), 0.75, dtype=torch.float64)
    uniforms[::2, 0] = 0.25  # both signs occur
    for chosen in policy(size).elements:
        ours = apply_elements(batch, (chosen,), torch.zeros(len(images), dtype=torch.int64), uniforms)
        for n, image in enumerate(images):
            m = -chosen.magnitude if OPERATIONS[chosen.operation].signed and n % 2 == 0 else chosen.magnitude
            theirs = by_torchvision(Image.fromarray(image), chosen.operation, m, size)
            assert np.array_equal(ours[n].permute(1, 2, 0).numpy(), theirs), f"{chosen.operation} {m:g}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operations": 3}, "use 1 or 2"),
        ({"magnitude": 31}, "use 0 to 30"),
        ({"bins": 1, "magnitude": 0}, "at least 2"),
    ],
)
def test_what_rand_augment_cannot_do_is_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rand_augment(32, **settings)
