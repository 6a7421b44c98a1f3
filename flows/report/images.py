"""Images inside the page: small PNG files as data URIs."""

from base64 import b64encode

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from components.data.images import encode_png
from flows.report.parts import Picture

SIDE = 96
"""Pixels to which larger images are scaled down: the file stays small, and two fit beside each other on a phone."""


def picture(image: UInt8[np.ndarray, "h w c"], label: str, below: str = "") -> Picture:
    """`c` is 1 or 3."""
    pixels = np.asarray(image)
    shown = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    shown.thumbnail((SIDE, SIDE))
    return Picture(address=f"data:image/png;base64,{b64encode(encode_png(shown)).decode()}", label=label, below=below)
