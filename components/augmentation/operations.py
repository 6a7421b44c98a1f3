"""The augmentation operations as batched kernels on uint8 images, and the table of elements made of them.

    b  images     h w  height and width in pixels     c  channels, 1 or 3     r  bytes in a row of pixels, w c
    m  magnitude of each image, with its sign (b)
    u  two uniform numbers in [0, 1) for each image, for operations that pick a place (b 2)

An operation is a kernel and a function that computes the kernel's parameters for each image. Operations of one kernel
share its call: on a batch of small images calls cost more than pixels. Kernels take images as PIL and the store hold
them, (b h w c).

Elements and magnitudes are those of Lin et al. (OHL-Auto-Aug, ICCV 2019), after Cubuk et al. (AutoAugment, CVPR 2019).
Every operation equals PIL's (`Image.transform` AFFINE with NEAREST and black outside, `ImageEnhance`, `ImageOps`) to
the last bit, as tests/components/test_augmentation_operations.py checks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int32, Int64, UInt8
from torch import Tensor

Images = UInt8[Tensor, "b h w c"]
Magnitudes = Float64[Tensor, " b"]
Uniforms = Float64[Tensor, "b 2"]
Parameters = Callable[[Images, Magnitudes, Uniforms], Tensor]
"""(images, magnitudes, uniform numbers) -> the kernel's parameters, one row for each image."""
Kernel = Callable[[Images, Magnitudes, Tensor], Images]
"""(images, magnitudes, parameters) -> new images."""

FIXED_POINT = 1 << 16
"""One in 16.16 fixed point, in which PIL's affine transform computes source coordinates."""
LUMA = (19595, 38470, 7471)
"""PIL's weights of red, green and blue in a grey level, times 65,536."""


def to_bytes(values: Tensor) -> UInt8[Tensor, "..."]:
    """Truncate numbers in 0..255 to uint8 by way of int16: torch vectorises both steps, but not the direct one."""
    return values.to(torch.int16).to(torch.uint8)


def rounded_quotient(total: Int64[Tensor, "..."], count: int) -> Int64[Tensor, "..."]:
    """Return total / count with halves rounded up, in integers, since a GPU divides by a rounded reciprocal."""
    return (2 * total + count) // (2 * count)


def keep(images: Images, m: Magnitudes, parameters: Tensor) -> Images:
    return images


def no_parameters(images: Images, m: Magnitudes, u: Uniforms) -> Float64[Tensor, " b"]:
    return m


# --- geometry: each output pixel (x, y) takes the source pixel at (a0 x + a1 y + a2, a3 x + a4 y + a5)

Coefficients = Float64[Tensor, "b 6"]


def affine(images: Images, m: Magnitudes, coefficients: Coefficients) -> Images:
    """Apply the affine map with nearest neighbours; pixels from outside come from a black border, one pixel wide."""
    count, height, width, _ = images.shape
    bordered = F.pad(images, (0, 0, 1, 1, 1, 1)).flatten(0, 2)
    assert len(bordered) < 1 << 31, "pixels are counted in 32 bits"
    column, row = source_coordinates(coefficients, height, width)
    source = row.clamp_(0, height + 1).mul_(width + 2).add_(column.clamp_(0, width + 1))
    source += multiples(len(bordered) // count, count, images.device)[:, None, None]
    return bordered.squeeze(1).index_select(0, source.flatten()).view(images.shape)


def multiples(step: int, count: int, device: torch.device) -> Int32[Tensor, " n"]:
    """Return the first `count` multiples of step: 0, step, 2 step, ..."""
    return torch.arange(0, count * step, step, dtype=torch.int32, device=device)


def source_coordinates(
    coefficients: Coefficients, height: int, width: int
) -> tuple[Int32[Tensor, "b h w"], Int32[Tensor, "b h w"]]:
    """Return column and row of every output pixel's source, from its centre, rounded down; 1 is the first pixel's."""
    x = multiples(1, width, coefficients.device)
    y = multiples(1, height, coefficients.device)[:, None]
    along_x, along_y, offset = coefficients.view(-1, 2, 3).unbind(2)
    start = offset + along_x * 0.5 + along_y * 0.5
    fixed = torch.stack((along_x, along_y, start)).mul_(FIXED_POINT).add_(0.5).floor_().int()  # 3 b 2
    step_x, step_y, first = fixed[..., None, None].unbind(0)  # b 2 1 1
    places = (first + FIXED_POINT + step_y * y) + step_x * x  # b 2 h w
    column, row = places.bitwise_right_shift_(16).unbind(1)
    return column, row


def shear_x(images: Images, m: Magnitudes, u: Uniforms) -> Coefficients:
    zero, one = torch.zeros_like(m), torch.ones_like(m)
    return torch.stack((one, m, zero, zero, one, zero), dim=1)


def shear_y(images: Images, m: Magnitudes, u: Uniforms) -> Coefficients:
    zero, one = torch.zeros_like(m), torch.ones_like(m)
    return torch.stack((one, zero, zero, m, one, zero), dim=1)


def translate_x(images: Images, m: Magnitudes, u: Uniforms) -> Coefficients:
    zero, one = torch.zeros_like(m), torch.ones_like(m)
    return torch.stack((one, zero, m * images.shape[2], zero, one, zero), dim=1)


def translate_y(images: Images, m: Magnitudes, u: Uniforms) -> Coefficients:
    zero, one = torch.zeros_like(m), torch.ones_like(m)
    return torch.stack((one, zero, zero, zero, one, m * images.shape[1]), dim=1)


def rotate(images: Images, m: Magnitudes, u: Uniforms) -> Coefficients:
    """Return the rotation by m degrees, counter-clockwise, about the centre of the image."""
    angle = torch.deg2rad(-m)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    x, y = images.shape[2] / 2, images.shape[1] / 2
    across, down = x - cosine * x - sine * y, y + sine * x - cosine * y
    return torch.stack((cosine, sine, across, -sine, cosine, down), dim=1)


# --- enhancement: a degenerate image and the image itself, mixed 1 : 1 + m

Degenerate = Float32[Tensor, "b h w c"]
Level = Float32[Tensor, "b 1 1 1"]


def blend(images: Images, m: Magnitudes, degenerate: Degenerate | Level) -> Images:
    """Return degenerate + (1 + m) (image - degenerate), in single precision as in PIL, clipped and truncated."""
    factor: Float32[Tensor, "b 1 1 1"] = (1 + m).float()[:, None, None, None]
    return to_bytes(images.float().sub_(degenerate).mul_(factor).add_(degenerate).clamp_(0, 255))


def blend_level(images: Images, m: Magnitudes, level: Level) -> Images:
    """Blend with a degenerate image of one level."""
    return blend(images, m, level)


def luma(images: Images) -> Int32[Tensor, "b h w"]:
    """Return the grey level of each pixel."""
    if images.shape[3] == 1:
        return images[..., 0].int()
    red, green, blue = (plane.int() for plane in images.unbind(3))
    total = red.mul_(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).add_(1 << 15)
    return total.bitwise_right_shift_(16)


def grey(images: Images, m: Magnitudes, u: Uniforms) -> Degenerate:
    return luma(images).float()[..., None].expand(images.shape)


def mean_grey(images: Images, m: Magnitudes, u: Uniforms) -> Level:
    mean = rounded_quotient(luma(images).flatten(1).sum(1), images.shape[1] * images.shape[2])
    return mean.float()[:, None, None, None]


def black(images: Images, m: Magnitudes, u: Uniforms) -> Level:
    return torch.zeros(len(images), 1, 1, 1, device=images.device)


def smooth(images: Images, m: Magnitudes, u: Uniforms) -> Degenerate:
    """Smooth by (1 1 1, 1 5 1, 1 1 1) / 13, rounded (no sum lies halfway); the border stays as it is."""
    values = images.to(torch.int16)
    rows = (values[:, :-2] + values[:, 1:-1]).add_(values[:, 2:])
    total = (rows[:, :, :-2] + rows[:, :, 1:-1]).add_(rows[:, :, 2:]).add_(values[:, 1:-1, 1:-1], alpha=4)
    result = images.float()
    result[:, 1:-1, 1:-1] = total.float().mul_(1 / 13).add_(0.5).floor_()
    return result


# --- levels by a table

Table = UInt8[Tensor, "b c 256"]


def look_up(images: Images, m: Magnitudes, table: Table) -> Images:
    return table.flatten().index_select(0, table_places(images).flatten()).view(images.shape)


def table_places(images: Images) -> Int32[Tensor, "b h r"]:
    """Return the index of each pixel's level in the flattened tables of all images and channels."""
    count, _, width, channels = images.shape
    first = multiples(256, count * channels, images.device)
    of_row = first.view(count, 1, 1, channels).expand(-1, -1, width, -1).flatten(2)  # b 1 r
    return images.flatten(2).int().add_(of_row)


def stretch_table(images: Images, m: Magnitudes, u: Uniforms) -> Table:
    """Return tables that stretch each channel to 0..255; a channel of one level stays."""
    values = images.int()
    low, high = values.amin(1).amin(1).double(), values.amax(1).amax(1).double()  # b c
    flat = low == high
    whole = torch.full_like(low, 255.0)  # torch turns `255.0 / tensor` into a product with a rounded reciprocal
    scale = torch.where(flat, 1.0, whole / (high - low))[..., None]  # PIL's order of operations, in double precision
    shift = torch.where(flat, 0.0, -low)[..., None] * scale
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    return to_bytes((levels * scale).add_(shift).clamp_(0, 255))


def equalize_table(images: Images, m: Magnitudes, u: Uniforms) -> Table:
    """Return tables that equalise each channel's histogram; one with fewer than 255 pixels below its top level stays.

    Single precision suffices: it counts pixels and rounds their quotients down exactly below 2^24.
    """
    count, height, width, channels = images.shape
    histogram = torch.bincount(table_places(images).flatten(), minlength=256 * count * channels)
    histogram = histogram.view(count, channels, 256)
    below = (histogram.cumsum(2) - histogram).float()
    below_top = (below * (below < height * width)).amax(2, keepdim=True)
    step = below_top.long() // 255  # b c 1
    levels = torch.arange(256, dtype=torch.float32, device=images.device)
    rank = torch.lerp(levels, below, (step > 0).float())
    return to_bytes((step // 2 + rank).div_(step.clamp(min=1)).clamp_(max=255))


# --- levels by their bits


def invert_from(images: Images, m: Magnitudes, threshold: UInt8[Tensor, "b 1 1 1"]) -> Images:
    """Invert the levels from the threshold upwards, without `>=`, which is slow in torch with one number an image."""
    above = (torch.maximum(images, threshold) == images).view(torch.uint8)
    return above.mul_(255).bitwise_xor_(images)


def inversion_threshold(images: Images, m: Magnitudes, u: Uniforms) -> UInt8[Tensor, "b 1 1 1"]:
    return m.ceil().to(torch.uint8)[:, None, None, None]


def keep_bits(images: Images, m: Magnitudes, kept: UInt8[Tensor, "b 1 1 1"]) -> Images:
    return images & kept


def upper_bits(images: Images, m: Magnitudes, u: Uniforms) -> UInt8[Tensor, "b 1 1 1"]:
    """Return the mask of each image's m upper bits."""
    return (256 - 2 ** (8 - m.long())).to(torch.uint8)[:, None, None, None]


# --- cutout


def cover(images: Images, m: Magnitudes, corner: Float64[Tensor, "b 2"]) -> Images:
    """Cover a square of side m x width with the image's mean.

    DeVries & Taylor (2017) cover with the mean of the training set, but an operation sees one image only.
    """
    count, height, width, channels = images.shape
    first = corner[..., None]
    place = torch.arange(max(height, width), device=images.device)
    inside = (place >= first) & (place < first + torch.round(m * width)[:, None, None])  # b 2 n
    rows, columns = inside.to(torch.uint8).mul_(255).unbind(1)
    mean = rounded_quotient(images.sum(1, dtype=torch.int32).sum(1), height * width)  # b c
    wide = (count, 1, width, channels)
    mean_row = mean.to(torch.uint8)[:, None, None].expand(wide).flatten(2)  # b 1 r
    covered = rows[:, :height, None] & columns[:, None, :width, None].expand(wide).flatten(2)  # b h r
    values = images.flatten(2)
    return (values ^ mean_row).bitwise_and_(covered).bitwise_xor_(values).view(images.shape)


def random_corner(images: Images, m: Magnitudes, u: Uniforms) -> Float64[Tensor, "b 2"]:
    """Return top and left of a square of side m x width that is centred on a random pixel."""
    height, width = images.shape[1:3]
    half = torch.round(m * width)[:, None] // 2
    return torch.stack((u[:, 0] * height, u[:, 1] * width), dim=1).floor_() - half


# --- the table


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A kernel, its parameters, and the magnitudes that the search chooses from."""

    kernel: Kernel
    parameters: Parameters = no_parameters
    magnitudes: tuple[float, ...] = (0.0,)
    signed: bool = False
    """Whether the sign of the magnitude is drawn for each image."""


OPERATIONS: dict[str, Operation] = {
    "Identity": Operation(kernel=keep),
    "ShearX": Operation(kernel=affine, parameters=shear_x, magnitudes=(0.1, 0.2, 0.3), signed=True),
    "ShearY": Operation(kernel=affine, parameters=shear_y, magnitudes=(0.1, 0.2, 0.3), signed=True),
    "TranslateX": Operation(kernel=affine, parameters=translate_x, magnitudes=(0.15, 0.3, 0.45), signed=True),
    "TranslateY": Operation(kernel=affine, parameters=translate_y, magnitudes=(0.15, 0.3, 0.45), signed=True),
    "Rotate": Operation(kernel=affine, parameters=rotate, magnitudes=(10.0, 20.0, 30.0), signed=True),
    "Color": Operation(kernel=blend, parameters=grey, magnitudes=(0.3, 0.6, 0.9), signed=True),
    "Contrast": Operation(kernel=blend_level, parameters=mean_grey, magnitudes=(0.3, 0.6, 0.9), signed=True),
    "Sharpness": Operation(kernel=blend, parameters=smooth, magnitudes=(0.3, 0.6, 0.9), signed=True),
    "Brightness": Operation(kernel=blend_level, parameters=black, magnitudes=(0.3, 0.6, 0.9), signed=True),
    "Posterize": Operation(kernel=keep_bits, parameters=upper_bits, magnitudes=(4.0, 5.0, 7.0)),
    "Solarize": Operation(kernel=invert_from, parameters=inversion_threshold, magnitudes=(26.0, 102.0, 179.0)),
    "AutoContrast": Operation(kernel=look_up, parameters=stretch_table),
    "Equalize": Operation(kernel=look_up, parameters=equalize_table),
    "Invert": Operation(kernel=invert_from, parameters=inversion_threshold),
    "Cutout": Operation(kernel=cover, parameters=random_corner, magnitudes=(0.5,)),
}

KERNELS: dict[Kernel, tuple[Operation, ...]] = {
    kernel: tuple(operation for operation in OPERATIONS.values() if operation.kernel is kernel)
    for kernel in dict.fromkeys(operation.kernel for operation in OPERATIONS.values())
}
"""The operations of each kernel."""


@dataclass(frozen=True)
class Element:
    """An operation with a magnitude, the unit that the distribution chooses."""

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
    """Return the element that is written as `name`. Raises `ValueError` if there is none."""
    known = {str(element): element for element in ELEMENTS}
    if name not in known:
        raise ValueError(f"there is no augmentation element {name!r}; use one of {', '.join(known)}")
    return known[name]


@cache
def element_columns(
    elements: tuple[Element, ...], device: torch.device
) -> tuple[Int64[Tensor, " k"], Float64[Tensor, "2*k"]]:
    """Return each element's place among the operations ordered by kernel, and two magnitudes for each element.

    The second magnitude is the negative of the first if the operation is signed, else equal to it.
    """
    ordered = [operation for operations in KERNELS.values() for operation in operations]
    chosen = [OPERATIONS[element.operation] for element in elements]
    magnitudes = [
        (element.magnitude, -element.magnitude if operation.signed else element.magnitude)
        for element, operation in zip(elements, chosen, strict=True)
    ]
    return (
        torch.tensor([ordered.index(operation) for operation in chosen], device=device),
        torch.tensor(magnitudes, dtype=torch.float64, device=device).flatten(),
    )


def apply_elements(
    images: UInt8[Tensor, "b c h w"],
    elements: tuple[Element, ...],
    chosen: Int64[Tensor, " b"],
    uniforms: Float64[Tensor, "b 3"],
) -> UInt8[Tensor, "b c h w"]:
    """Apply to each image its chosen element (an index into `elements`); the result is in channels_last layout.

    `uniforms` are in [0, 1): the first decides the sign of a signed magnitude, the others the place of an operation
    that has one.
    """
    operations, magnitudes = element_columns(elements, images.device)
    operation = operations.index_select(0, chosen)
    m = magnitudes.index_select(0, (uniforms[:, 0] < 0.5).add(chosen, alpha=2))
    order = operation.argsort(stable=True)
    counts = torch.bincount(operation, minlength=len(OPERATIONS)).tolist()
    pixels = images.permute(0, 2, 3, 1).contiguous().index_select(0, order)
    groups = apply_kernels(pixels, m.index_select(0, order), uniforms[:, 1:].index_select(0, order), counts)
    results = torch.cat((pixels[:0], *groups))  # so that a batch without images gives none
    return results.index_select(0, order.argsort()).permute(0, 3, 1, 2)


def apply_kernels(images: Images, m: Magnitudes, u: Uniforms, counts: Sequence[int]) -> Iterator[Images]:
    """Yield the new images, kernel by kernel, for images ordered by operation; `counts`: images of each operation."""
    count = iter(counts)
    stop = 0
    for kernel, operations in KERNELS.items():
        first, parameters = stop, []
        for operation in operations:
            start, stop = stop, stop + next(count)
            if stop > start:
                parameters.append(operation.parameters(images[start:stop], m[start:stop], u[start:stop]))
        if parameters:
            yield kernel(images[first:stop], m[first:stop], torch.cat(parameters))
