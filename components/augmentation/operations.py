"""The augmentation operations: batched kernels on uint8 images, and the table of elements made of them.

    b  images     c  channels, 1 or 3     h w  height and width in pixels
    m  magnitude of each image, with its sign (b)
    u  two uniform numbers in [0, 1) for each image, for operations that pick a place (b 2)

Elements and magnitudes: Lin et al. (OHL-Auto-Aug, ICCV 2019), after Cubuk et al. (AutoAugment, CVPR 2019). Every
kernel gives what PIL gives (`Image.transform` AFFINE with NEAREST and black outside, `ImageEnhance`, `ImageOps`)
to the last bit; tests/components/test_augmentation_operations.py holds them to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

Images = UInt8[Tensor, "b c h w"]
Magnitudes = Float64[Tensor, " b"]
Uniforms = Float64[Tensor, "b 2"]
Kernel = Callable[[Images, Magnitudes, Uniforms], Images]

FIXED = 1 << 16
"""PIL's affine transform computes source coordinates in 16.16 fixed point."""
LUMA = (19595, 38470, 7471)
"""PIL's weights of red, green and blue in a grey level, times 65,536."""


# --- geometry: each output pixel (x, y) takes the source pixel at (a0 x + a1 y + a2, a3 x + a4 y + a5)


def affine(images: Images, *coefficients: Float64[Tensor, " b"]) -> Images:
    """Nearest neighbour, black outside. Coefficients a0..a5, one value an image each."""
    count, _, height, width = images.shape
    a0, a1, a2, a3, a4, a5 = coefficients
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    column = source_index(a0, a1, a2, x, y)  # b h w
    row = source_index(a3, a4, a5, x, y)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    source += torch.arange(count, device=images.device)[:, None, None] * (height * width)
    pixels = images.permute(0, 2, 3, 1).flatten(0, 2)[source]  # b h w c
    return (pixels * inside[..., None]).permute(0, 3, 1, 2)


def source_index(
    along_x: Float64[Tensor, " b"],
    along_y: Float64[Tensor, " b"],
    offset: Float64[Tensor, " b"],
    x: Int64[Tensor, " w"],
    y: Int64[Tensor, "h 1"],
) -> Int64[Tensor, "b h w"]:
    """One source coordinate of every output pixel, from the centre of the pixel, rounded down."""
    step_x, step_y, start = (
        torch.floor(value * FIXED + 0.5).long()[:, None, None]
        for value in (along_x, along_y, offset + along_x * 0.5 + along_y * 0.5)
    )
    return (start + step_y * y + step_x * x) >> 16


def shear_x(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    zero, one = torch.zeros_like(m), torch.ones_like(m)
    return affine(images, one, m, zero, zero, one, zero)


def shear_y(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    zero, one = torch.zeros_like(m), torch.ones_like(m)
    return affine(images, one, zero, zero, m, one, zero)


def translate_x(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    zero, one = torch.zeros_like(m), torch.ones_like(m)
    return affine(images, one, zero, m * images.shape[3], zero, one, zero)


def translate_y(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    zero, one = torch.zeros_like(m), torch.ones_like(m)
    return affine(images, one, zero, zero, zero, one, m * images.shape[2])


def rotate(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    """By m degrees, counter-clockwise, about the centre of the image."""
    cosine, sine = torch.cos(torch.deg2rad(-m)), torch.sin(torch.deg2rad(-m))
    x, y = images.shape[3] / 2, images.shape[2] / 2
    return affine(images, cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y)


# --- enhancement: blend(degenerate, image, 1 + m)


def blend(degenerate: UInt8[Tensor, "b #c #h #w"], images: Images, m: Magnitudes) -> Images:
    """degenerate + (1 + m) (image - degenerate), in single precision as PIL does it, clipped and cut off."""
    factor: Float32[Tensor, "b 1 1 1"] = (1 + m).float()[:, None, None, None]
    start = degenerate.float()
    return (start + factor * (images.float() - start)).clamp_(0, 255).to(torch.uint8)


def grey(images: Images) -> UInt8[Tensor, "b 1 h w"]:
    if images.shape[1] == 1:
        return images
    red, green, blue = images.int().unbind(1)
    level = (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + (1 << 15)) >> 16
    return level.to(torch.uint8)[:, None]


def color(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    return blend(grey(images), images, m)


def contrast(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    mean = grey(images).double().mean(dim=(2, 3), keepdim=True) + 0.5
    return blend(mean.to(torch.uint8), images, m)


def brightness(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    return blend(torch.zeros_like(images[:, :1, :1, :1]), images, m)


def sharpness(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    """The degenerate is smoothed by (1 1 1, 1 5 1, 1 1 1) / 13, rounded; its border is the image's."""
    values = images.to(torch.int16)
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * values[:, :, 1:-1, 1:-1]
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = ((2 * total + 13) // 26).to(torch.uint8)
    return blend(smooth, images, m)


# --- levels


def posterize(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    """Keeps the upper m bits."""
    kept = 256 - 2 ** (8 - m.long())
    return images & kept.to(torch.uint8)[:, None, None, None]


def solarize(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    """Inverts the levels from m upwards."""
    return torch.where(images < m[:, None, None, None], images, 255 - images)


def invert(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    return 255 - images


def autocontrast(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    """Stretches each channel to 0..255; a channel of one level stays."""
    low = images.amin(dim=(2, 3)).double()[..., None]  # b c 1
    spread = images.amax(dim=(2, 3)).double()[..., None] - low
    # PIL's order of operations, in double precision; torch would read `255.0 / spread` as 255.0 * (1 / spread)
    scale = torch.full_like(spread, 255.0) / spread
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    table = (levels * scale + -low * scale).trunc().clamp(0, 255)
    return look_up(torch.where(spread > 0, table, levels), images)


def equalize(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    """Flattens each channel's histogram; a channel with fewer than 255 pixels below its top level stays."""
    count, channels, height, width = images.shape
    each = torch.arange(count * channels, device=images.device).view(count, channels, 1, 1) * 256
    histogram = torch.bincount((images + each).flatten(), minlength=256 * count * channels)
    histogram = histogram.view(count, channels, 256)
    top = histogram.gather(2, images.amax(dim=(2, 3)).long()[..., None])
    step = (height * width - top) // 255  # b c 1
    below = histogram.cumsum(2) - histogram
    table = (step // 2 + below) // step.clamp(min=1)
    return look_up(torch.where(step > 0, table.clamp(max=255), torch.arange(256, device=images.device)), images)


def look_up(table: Float64[Tensor, "b c 256"] | Int64[Tensor, "b c 256"], images: Images) -> Images:
    levels = table.to(torch.uint8).gather(2, images.flatten(2).long())
    return levels.view(images.shape)


def cutout(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    """Covers a square of side m x width, centred on any pixel (DeVries & Taylor, 2017), with the image's mean.

    Unlike the paper, which covers with the mean of the training set: an image is all that an operation sees.
    """
    height, width = images.shape[2:]
    side = torch.round(m * width)[:, None]
    top = torch.floor(u[:, :1] * height) - side // 2
    left = torch.floor(u[:, 1:] * width) - side // 2
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    rows, columns = (y >= top) & (y < top + side), (x >= left) & (x < left + side)
    mean = (images.double().mean(dim=(2, 3), keepdim=True) + 0.5).to(torch.uint8)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], mean, images)


def identity(images: Images, m: Magnitudes, u: Uniforms) -> Images:
    return images


# --- the table


@dataclass(frozen=True, kw_only=True)
class Operation:
    kernel: Kernel
    magnitudes: tuple[float, ...] = (0.0,)
    signed: bool = False
    """Whether the sign of the magnitude is drawn anew for each image."""


OPERATIONS: dict[str, Operation] = {
    "Identity": Operation(kernel=identity),
    "ShearX": Operation(kernel=shear_x, magnitudes=(0.1, 0.2, 0.3), signed=True),
    "ShearY": Operation(kernel=shear_y, magnitudes=(0.1, 0.2, 0.3), signed=True),
    "TranslateX": Operation(kernel=translate_x, magnitudes=(0.15, 0.3, 0.45), signed=True),
    "TranslateY": Operation(kernel=translate_y, magnitudes=(0.15, 0.3, 0.45), signed=True),
    "Rotate": Operation(kernel=rotate, magnitudes=(10.0, 20.0, 30.0), signed=True),
    "Color": Operation(kernel=color, magnitudes=(0.3, 0.6, 0.9), signed=True),
    "Contrast": Operation(kernel=contrast, magnitudes=(0.3, 0.6, 0.9), signed=True),
    "Sharpness": Operation(kernel=sharpness, magnitudes=(0.3, 0.6, 0.9), signed=True),
    "Brightness": Operation(kernel=brightness, magnitudes=(0.3, 0.6, 0.9), signed=True),
    "Posterize": Operation(kernel=posterize, magnitudes=(4.0, 5.0, 7.0)),
    "Solarize": Operation(kernel=solarize, magnitudes=(26.0, 102.0, 179.0)),
    "AutoContrast": Operation(kernel=autocontrast),
    "Equalize": Operation(kernel=equalize),
    "Invert": Operation(kernel=invert),
    "Cutout": Operation(kernel=cutout, magnitudes=(0.5,)),
}


@dataclass(frozen=True)
class Element:
    """An operation with a magnitude: what the distribution chooses from."""

    operation: str
    magnitude: float = 0.0

    def __str__(self) -> str:
        return (
            self.operation
            if len(OPERATIONS[self.operation].magnitudes) == 1
            else f"{self.operation} {self.magnitude:g}"
        )


ELEMENTS = tuple(Element(name, m) for name, operation in OPERATIONS.items() for m in operation.magnitudes)


def named_element(name: str) -> Element:
    """The element that is written so. Raises `ValueError` for a name that none has."""
    known = {str(element): element for element in ELEMENTS}
    if name not in known:
        raise ValueError(f"there is no augmentation element {name!r}; use one of {', '.join(known)}")
    return known[name]


@cache
def element_columns(elements: tuple[Element, ...]) -> tuple[Int64[Tensor, " k"], Float64[Tensor, " k"], Tensor]:
    """Of each element: its operation's row in the table, its magnitude, whether the sign is random."""
    names = list(OPERATIONS)
    return (
        torch.tensor([names.index(element.operation) for element in elements]),
        torch.tensor([element.magnitude for element in elements], dtype=torch.float64),
        torch.tensor([OPERATIONS[element.operation].signed for element in elements]),
    )


def apply_elements(
    images: Images,
    elements: tuple[Element, ...],
    chosen: Int64[Tensor, " b"],
    uniforms: Float64[Tensor, "b 3"],
) -> Images:
    """To each image its chosen element (an index into `elements`); the images of one operation go together.

    `uniforms`, in [0, 1): the first decides the sign of a signed magnitude, the others the place of an operation
    that has one.
    """
    operation, magnitude, signed = (column.to(images.device)[chosen] for column in element_columns(elements))
    m = torch.where(signed & (uniforms[:, 0] < 0.5), -magnitude, magnitude)
    result = images.clone()
    for row, (name, entry) in enumerate(OPERATIONS.items()):
        group = torch.nonzero(operation == row).squeeze(1)
        if name != "Identity" and len(group) > 0:
            result[group] = entry.kernel(images[group], m[group], uniforms[group, 1:])
    return result
