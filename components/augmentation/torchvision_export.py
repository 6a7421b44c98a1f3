"""A learned policy for use outside this project: as a torchvision v2 transform, or as torchvision's own transforms.

    transform = load_policy("augmentation.json")            # an nn.Module, needs `components.augmentation`
    transform = torchvision_transform(policy, size=32)      # needs torchvision alone, also after torch.save

The first gives the very pixels that the search trained with, and draws a pair for each image of a batch. The second has
the same probabilities, but Cutout covers with grey instead of the image's mean. On tensors torchvision also rounds
differently: by one level in Color, Contrast, Sharpness and AutoContrast, by one pixel of the source for up to 10 % of
the pixels in shears and 2 % in rotations. On PIL images it agrees to the last bit.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from components.augmentation.operations import OPERATIONS, Element
from components.augmentation.policy import Policy
from components.settings.require import require

GREY = 128
"""Grey level that an exported Cutout covers with."""
UNMOVED = (tv_tensors.BoundingBoxes, tv_tensors.KeyPoints, tv_tensors.Mask, tv_tensors.Video)


def load_policy(path: str | Path, generator: torch.Generator | None = None) -> "PolicyTransform":
    """Return the policy in an `augmentation.json` as a transform."""
    return PolicyTransform(Policy.from_json(json.loads(Path(path).read_text(encoding="utf-8"))), generator)


class PolicyTransform(v2.Transform):
    """Applies a drawn pair of elements to every image: a PIL image, `tv_tensors.Image` or uint8 tensor [... c h w].

    It works inside a `v2.Compose`, before any conversion to float, and draws a pair for each image of a batch. Random
    numbers come from torch's global generator, as in torchvision (so DataLoader workers differ), or from `generator`,
    in one process. Raises `TypeError` for boxes, masks and key points, which it could not move along.
    """

    def __init__(self, policy: Policy, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.augment = policy.augment()
        self.generator = generator

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        for value in flat_inputs:
            if isinstance(value, UNMOVED):
                raise TypeError(f"the policy augments images, not {type(value).__name__}; give it the image alone")

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, PIL.Image.Image):
            require(
                inpt.mode in ("L", "RGB"), f"the policy got a PIL image of mode {inpt.mode}; convert it to L or RGB"
            )
            return F.to_pil_image(self.augment_tensor(F.pil_to_tensor(inpt)), mode=inpt.mode)
        return tv_tensors.wrap(self.augment_tensor(inpt.as_subclass(Tensor)), like=inpt)

    def augment_tensor(self, images: Tensor) -> Tensor:
        require(
            images.dtype == torch.uint8 and images.ndim >= 3 and images.shape[-3] in (1, 3),
            f"the policy got {images.dtype} images of shape {list(images.shape)}; "
            "give it uint8 [... c h w] with 1 or 3 channels, before any conversion to float",
        )
        flat = images.reshape(-1, *images.shape[-3:])
        return self.augment(flat, self.generator or torch.default_generator).reshape(images.shape)


# --- in torchvision's own transforms


def torchvision_transform(policy: Policy, size: int) -> v2.RandomChoice:
    """Return the policy made of torchvision's transforms, for images of `size` x `size`; a batch shares one draw."""
    shares, pairs = zip(*torchvision_pairs(policy, size), strict=True)
    return v2.RandomChoice(pairs, p=list(shares))


def torchvision_pairs(policy: Policy, size: int) -> list[tuple[float, v2.Compose]]:
    """Return (probability, transforms of the first and second element) of every pair, the most probable first."""
    transforms = [element_transform(element, size) for element in policy.elements]
    rows = [
        (float(share), v2.Compose([first, second]))
        for first, shares in zip(transforms, policy.joint, strict=True)
        for second, share in zip(transforms, shares, strict=True)
        if share > 0
    ]
    return sorted(rows, key=lambda row: -row[0])


def element_transform(element: Element, size: int) -> v2.Transform:
    """Return the element's transform; a signed one draws its sign at every call."""
    make, m = TORCHVISION[element.operation], element.magnitude
    if OPERATIONS[element.operation].signed:
        return v2.RandomChoice([make(m, size), make(-m, size)])
    return make(m, size)


def call(functional: Callable[..., Any], **settings: Any) -> v2.Lambda:
    """Return a transform that applies one of torchvision's functions, with its settings, to images alone."""
    bound = partial(functional, **settings)
    bound.__dict__["__name__"] = f"{functional.__name__} {settings}"  # what `print` shows of a Lambda
    return v2.Lambda(bound, Tensor, PIL.Image.Image)


def affine(shear: tuple[float, float] = (0.0, 0.0), shift: tuple[float, float] = (0.0, 0.0)) -> v2.Lambda:
    """Shear by tangents about the corner and move by pixels; torchvision moves the image, so the shift is negated."""
    angles = [math.degrees(math.atan(tangent)) for tangent in shear]
    moved = [-pixels for pixels in shift]
    return call(F.affine, angle=0.0, translate=moved, scale=1.0, shear=angles, center=[0.0, 0.0])


def cutout(share: float, size: int) -> v2.Compose:
    """Return Cutout: its square may hang over the edge, so it is erased from a padded image that is then cropped."""
    side = round(share * size)
    before = side // 2
    padded = size + side - 1
    return v2.Compose(
        [
            v2.Pad([before, before, side - 1 - before, side - 1 - before]),
            v2.RandomErasing(p=1.0, scale=((side / padded) ** 2,) * 2, ratio=(1.0, 1.0), value=GREY),
            call(F.crop, top=before, left=before, height=size, width=size),
        ]
    )


TORCHVISION: dict[str, Callable[[float, int], v2.Transform]] = {
    "Identity": lambda m, size: v2.Identity(),
    "ShearX": lambda m, size: affine(shear=(m, 0.0)),
    "ShearY": lambda m, size: affine(shear=(0.0, m)),
    "TranslateX": lambda m, size: affine(shift=(m * size, 0.0)),
    "TranslateY": lambda m, size: affine(shift=(0.0, m * size)),
    "Rotate": lambda m, size: call(F.rotate, angle=m),
    "Color": lambda m, size: call(F.adjust_saturation, saturation_factor=1 + m),
    "Contrast": lambda m, size: call(F.adjust_contrast, contrast_factor=1 + m),
    "Sharpness": lambda m, size: call(F.adjust_sharpness, sharpness_factor=1 + m),
    "Brightness": lambda m, size: call(F.adjust_brightness, brightness_factor=1 + m),
    "Posterize": lambda m, size: call(F.posterize, bits=int(m)),
    "Solarize": lambda m, size: call(F.solarize, threshold=m),
    "AutoContrast": lambda m, size: call(F.autocontrast),
    "Equalize": lambda m, size: call(F.equalize),
    "Invert": lambda m, size: call(F.invert),
    "Cutout": cutout,
}
"""For each operation, a function from a signed magnitude and an image size to its transform."""
