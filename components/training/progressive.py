"""Progressive resizing: training begins on smaller images, which cost less, and ends on the size that ships.

Howard, fast.ai's entry to DAWNBench, 2018. Our networks end with a mean over the image, so that they take any size.
"""

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

EIGHTHS = (5, 6, 7, 8)
"""Side of the images in each quarter of the steps, in eighths of the side that ships (ours)."""


def sides(side: int) -> tuple[int, ...]:
    """Return the side of the images in each quarter of the training, in pixels: even numbers, then `side`."""
    return (*(2 * round(side * eighths / 16) for eighths in EIGHTHS[:-1]), side)


def side_at(step: int, steps: int, side: int) -> int:
    """Return the side of the images in a step, 0..steps-1."""
    quarters = sides(side)
    return quarters[min(step * len(quarters) // steps, len(quarters) - 1)]


def shrink(images: UInt8[Tensor, "b c h w"], side: int) -> UInt8[Tensor, "b c side side"]:
    """Return the images at that side (bilinear, antialiased), in channels_last layout."""
    if images.shape[-1] == side:
        return images
    small = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
    return small.round().to(torch.uint8).contiguous(memory_format=torch.channels_last)
