"""Embed images in the page as small PNG files in data URIs."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from components.data.images import encode_png
from flows.report.parts import Picture

SIDE = 96
"""Pixels to which larger images are scaled down, so that the file stays small and two fit side by side on a phone."""
GAP = 4
"""Pixels between the images of a sheet."""


def picture(image: UInt8[np.ndarray, "h w c"], label: str, below: str = "") -> Picture:
    """Turn an image of 1 or 3 channels into a picture of at most SIDE pixels a side."""
    pixels = np.asarray(image)
    shown = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    shown.thumbnail((SIDE, SIDE))
    return Picture(address=f"data:image/png;base64,{b64encode(encode_png(shown)).decode()}", label=label, below=below)


def sheet(rows: Sequence[Sequence[bytes]]) -> bytes:
    """Join rows of PNG files of one size into one PNG file, each scaled to SIDE."""
    cell = SIDE + GAP
    size = (max(len(row) for row in rows) * cell - GAP, len(rows) * cell - GAP)
    whole = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, png in enumerate(row):
            image = Image.open(BytesIO(png)).convert("RGB")
            whole.paste(image.resize((SIDE, SIDE), Image.Resampling.NEAREST), (x * cell, y * cell))
    return encode_png(whole)
