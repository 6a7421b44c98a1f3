"""Published policies that search nothing on the data at hand, from our own kernels: the rivals of the search.

    TrivialAugmentWide  Muller & Hutter, ICCV 2021        one operation, any of its magnitudes
    RandAugment         Cubuk et al., NeurIPS 2020        one or two operations, one magnitude for all
    AutoAugment         Cubuk et al., CVPR 2019           25 pairs found on CIFAR-10, each element with a probability

Operations, ranges and rounding are torchvision's, to the last bit. Its translations are in pixels where ours are a
fraction of the side, so each policy asks for the `size` of the images; TrivialAugmentWide's reach 32 pixels at any
size, which leaves nothing of a smaller image (`size=32` for such images keeps the shares of a CIFAR image instead).
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from components.augmentation.operations import Element
from components.augmentation.policy import AugmentPairs, augment_pairs
from components.settings.require import require

Shares = Mapping[tuple[Element, Element], float]

NOTHING = Element("Identity")


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Where each kind of operation ends; all start at no change."""

    shear: float
    pixels: float
    """Of a translation."""
    degrees: float
    enhancement: float
    bits_lost: int
    """By Posterize."""


WIDE = Ranges(shear=0.99, pixels=32.0, degrees=135.0, enhancement=0.99, bits_lost=6)
"""TrivialAugmentWide's."""


def narrow(size: int) -> Ranges:
    """AutoAugment's and RandAugment's."""
    return Ranges(shear=0.3, pixels=150 / 331 * size, degrees=30.0, enhancement=0.9, bits_lost=4)


def magnitudes(ranges: Ranges, bins: int, size: int) -> dict[str, tuple[float, ...]]:
    """Of each operation, weakest to strongest, in single precision as torchvision computes them."""
    shears, degrees, enhancements = (
        tuple(torch.linspace(0.0, end, bins).tolist()) for end in (ranges.shear, ranges.degrees, ranges.enhancement)
    )
    fractions = tuple(int(pixels) / size for pixels in torch.linspace(0.0, ranges.pixels, bins).tolist())
    bits = (8 - torch.arange(bins) / ((bins - 1) / ranges.bits_lost)).round()
    return {
        "ShearX": shears,
        "ShearY": shears,
        "TranslateX": fractions,
        "TranslateY": fractions,
        "Rotate": degrees,
        "Brightness": enhancements,
        "Color": enhancements,
        "Contrast": enhancements,
        "Sharpness": enhancements,
        "Posterize": tuple(bits.tolist()),
        "Solarize": tuple(255 * level for level in torch.linspace(1.0, 0.0, bins).tolist()),
        "Identity": (0.0,),
        "AutoContrast": (0.0,),
        "Equalize": (0.0,),
        "Invert": (0.0,),
    }


def trivial_augment_wide(size: int, bins: int = 31) -> AugmentPairs:
    """One of 14 operations an image, at one of `bins` magnitudes, all equally likely. Images of `size` x `size`."""
    require(bins >= 2, f"TrivialAugmentWide was asked for {bins} bins; use at least 2")
    levels = magnitudes(WIDE, bins, size)
    del levels["Invert"]
    shares: defaultdict[tuple[Element, Element], float] = defaultdict(float)
    for name, choices in levels.items():
        for magnitude in choices:
            shares[Element(name, magnitude), NOTHING] += 1 / len(levels) / len(choices)
    return weighted(shares)


def rand_augment(size: int, operations: int = 2, magnitude: int = 9, bins: int = 31) -> AugmentPairs:
    """One or two of 14 operations an image, all at magnitude number `magnitude` of `bins` (0: no change)."""
    require(operations in (1, 2), f"RandAugment was asked for {operations} operations an image; use 1 or 2")
    require(bins >= 2, f"RandAugment was asked for {bins} bins; use at least 2")
    require(0 <= magnitude < bins, f"RandAugment was asked for magnitude {magnitude}; use 0 to {bins - 1}")
    levels = magnitudes(narrow(size), bins, size)
    del levels["Invert"]
    chosen = [Element(name, choices[magnitude if len(choices) > 1 else 0]) for name, choices in levels.items()]
    pairs = list(product(chosen, chosen if operations == 2 else [NOTHING]))
    return weighted(dict.fromkeys(pairs, 1 / len(pairs)))


def auto_augment_cifar10(size: int) -> AugmentPairs:
    """One of the 25 pairs that AutoAugment found on CIFAR-10, each element applied with its own probability."""
    levels = magnitudes(narrow(size), 10, size)
    shares: defaultdict[tuple[Element, Element], float] = defaultdict(float)
    for sub_policy in CIFAR10:
        places = [
            ((Element(name, levels[name][row]), probability), (NOTHING, 1 - probability))
            for name, probability, row in sub_policy
        ]
        for (first, p), (second, q) in product(*places):
            shares[first, second] += p * q / len(CIFAR10)
    return weighted({pair: share for pair, share in shares.items() if share > 0})


def weighted(shares: Shares) -> AugmentPairs:
    """Draw from the pairs by their shares."""
    elements = tuple(dict.fromkeys(element for pair in shares for element in pair))
    row = {element: k for k, element in enumerate(elements)}
    pairs = [(row[first], row[second]) for first, second in shares]
    return augment_pairs(elements, pairs, np.array(list(shares.values())))


CIFAR10 = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)
"""(operation, probability, number of its magnitude of 10) of both elements, as torchvision lists them."""
