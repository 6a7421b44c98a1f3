"""From encoded bytes to pixels: what counts as an image, what it looks like, and what makes two the same.

Bytes come from strangers, so nothing is decoded before its header is read, and only by Pillow's raster decoders
(Pillow would otherwise hand PostScript to Ghostscript).
"""

import hashlib
import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from components.data.records import Refused, Rule

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")

ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the image upright."""

BITS_PER_SAMPLE = 258
"""TIFF's tag."""
RANGELESS = ("I", "F")
"""Pillow's modes of 32-bit numbers: no white point, so no honest way to 8 bits."""


def decode(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """The image as a person sees it: upright, mode `L` if it is grey (however it was stored), else `RGB`.

    Transparent pixels become white; 16-bit grey keeps its upper 8 bits; of several frames the first counts.
    Raises `Refused`: header announces more than `max_pixels`, not an image, truncated, corrupt, unsupported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about what is refused here, or about metadata nobody reads
        image = open_header(data)
        width, height = image.size
        if max_pixels is not None and width * height > max_pixels:
            reason = f"its header announces {width} x {height} pixels; data.max_pixels allows {max_pixels}"
            raise Refused(Rule.TOO_LARGE, reason)
        try:
            image.load()
        except MemoryError:
            raise  # our machine's fault, not the image's
        except Exception as error:  # decoders of nine formats raise nearly anything on hostile bytes
            raise broken(error) from None
        return plain(upright(image), depth_of(image))


def open_header(data: bytes) -> Image.Image:
    """Identify the image without decoding its pixels; raises `Refused`."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(Rule.NOT_AN_IMAGE, "Pillow finds no image format it knows at its start") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        reason = f"its header announces more than {most} pixels, the most that Pillow opens"
        raise Refused(Rule.TOO_LARGE, reason) from None
    except MemoryError:
        raise
    except Exception as error:  # as above: a header can break a decoder in any way
        raise broken(error) from None


def broken(error: Exception) -> Refused:
    """What a decoder's complaint means; its text is left out, for it may hold addresses and paths."""
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return Refused(Rule.TRUNCATED, "the file ends before its last pixel")
    return Refused(Rule.CORRUPT, f"its pixels cannot be decoded ({type(error).__name__})")


def upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation asks; broken metadata turns nothing."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a viewer shows such an image unturned, and so do we: the pixels are sound
        turn = None
    return image if turn is None else image.transpose(turn)


def depth_of(image: Image.Image) -> int:
    """Bits that a pixel of a 16-bit mode uses: all, but for TIFF's 12."""
    bits = image.tag_v2.get(BITS_PER_SAMPLE) if isinstance(image, TiffImageFile) else None
    return 12 if bits == (12,) else 16


def plain(image: Image.Image, depth: int = 16) -> Image.Image:
    """Mode `L` or `RGB`, 8 bits, no transparency; `depth`: bits of a 16-bit mode's pixels. Raises `Refused` for numbers
    without a range."""
    if image.mode in RANGELESS:
        raise Refused(Rule.UNSUPPORTED, f"32-bit pixels (mode {image.mode}) have no white; store 8 or 16 bits")
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255: all white
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> (depth - 8)).astype(np.uint8))
    try:
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.new("RGB", layer.size, "white")
            image.paste(layer, mask=layer.getchannel("A"))
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    except ValueError:
        raise Refused(Rule.UNSUPPORTED, f"mode {image.mode} has no way to RGB; store RGB or grey") from None
    return image if image.mode == "L" or not is_grey(image) else image.getchannel(0)


def is_grey(image: Image.Image) -> bool:
    """Whether an RGB image's three channels are equal."""
    pixels = np.asarray(image).reshape(-1, 3)
    first = pixels[:64]  # nearly every colour image shows it here
    return all(bool((part[:, :1] == part[:, 1:]).all()) for part in (first, pixels))


def content_hash(image: Image.Image) -> str:
    """sha256 of mode, size and pixels of a decoded image: equal for the same picture in another encoding."""
    width, height = image.size
    digest = hashlib.sha256(f"{image.mode} {width} {height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def channels_of(image: Image.Image) -> int:
    return 1 if image.mode == "L" else 3


def to_array(image: Image.Image, size: int, channels: int) -> UInt8[np.ndarray, "size size channels"]:
    """A decoded image as a network takes it: a square of `size` pixels, whatever its shape was.

    Bilinear with antialiasing, torchvision's default, so that a client of the model can do the same.
    """
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    if channels_of(image) != channels:
        image = image.convert("RGB")
    return np.asarray(image).reshape(size, size, channels)


def encode_png(image: Image.Image, compress_level: int = 6) -> bytes:
    """Lossless bytes; level 0 stores the pixels, so that the bytes depend on no zlib version."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()
