"""Decoding of images: which bytes count as an image, which pixels they give, and when two images are the same.

Bytes are not trusted: the header is read before anything is decoded, and only Pillow's raster decoders are used
(otherwise Pillow would pass PostScript to Ghostscript).
"""

import hashlib
import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from components.data.encoded import is_unended, readings, refusal_of
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
"""EXIF orientation -> the operation that turns the image upright."""

BITS_PER_SAMPLE = 258
"""TIFF's tag of this name."""
RANGELESS = ("I", "F")
"""Pillow's modes of 32-bit numbers, which have no white point and so no correct conversion to 8 bits."""
RANGED = ("PPM", "I")
"""The one (format, mode) whose white is known, 65535, although Pillow holds it in 32 bits."""
SIXTEEN = ("PNG", "TIFF", "PPM", "JPEG2000")
"""Formats with 16-bit values; in other formats ";16" means that a whole pixel has 16 bits."""
DARK = 1 << 12
"""Value, of 65535, below which all pixels of a 16-bit image must not stay: such an image is refused."""
MENDABLE = frozenset({Rule.NOT_AN_IMAGE, Rule.TRUNCATED, Rule.CORRUPT})
"""Refusals after which another reading of the bytes may find all pixels."""
CUT_OFF = "the file ends before its last pixel"


def decode(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """Decode the image as a person sees it: upright, in mode `L` if it is grey (however it was stored), else `RGB`.

    Transparent pixels become white, 16 bits keep their upper 8, and of several frames the first counts. Damage that
    loses no pixel (a PNG's texts, profiles and their checksums, a JPEG's missing end) is ignored. Raises `Refused` if
    the header announces more than `max_pixels`, or the image is none, truncated, corrupt, unsupported or blank.

    No rule looks at other images, so that one file gives the same pixels in a data set and before a model. Hence 16
    bits are never stretched: a dark photo would become a bright one. An image without a value of `DARK` or more is
    refused: at most 16 of its 256 grey levels would be left, and mostly it has 8- or 12-bit values in a 16-bit file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about what is refused here, or about unused metadata
        try:
            if is_unended(data):
                raise Refused(Rule.TRUNCATED, CUT_OFF)
            return read(data, max_pixels)
        except Refused as refused:
            if refused.rule not in MENDABLE:
                raise
            found = reread(data, max_pixels)
            if found is None:
                raise
            return found


def read(data: bytes, max_pixels: int | None) -> Image.Image:
    """Decode bytes that Pillow can read as they are; raises `Refused`."""
    image = open_header(data)
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        reason = f"its header announces {width} x {height} pixels; data.max_pixels allows {max_pixels}"
        raise Refused(Rule.TOO_LARGE, reason)
    depth, sixteen = depth_of(image), has_16_bits(image)  # Pillow forgets once it has decoded
    try:
        image.load()
    except MemoryError:
        raise  # our machine's fault, not the image's
    except Exception as error:  # decoders of nine formats raise nearly anything on hostile bytes
        raise refusal_from(error) from None
    upper = plain(upright(image), depth)
    if sixteen and brightest(upper) < DARK >> 8:
        below = (brightest(upper) + 1) << 8
        reason = f"a 16-bit image that uses only values below {below} would be black; store it as 8 bits, or stretch it"
        raise Refused(Rule.UNSUPPORTED, f"{reason} to 65535")
    return upper


def brightest(image: Image.Image) -> int:
    """Return the largest value of any channel of an 8-bit image."""
    return int(np.asarray(image).max())


def reread(data: bytes, max_pixels: int | None) -> Image.Image | None:
    """Return the image that all other readings of the bytes agree on; None if there is none. Raises `Refused`."""
    first: Image.Image | None = None
    for reading in readings(data):
        try:
            image = read(reading, max_pixels)
        except Refused as refused:
            raise refused if first is None else Refused(Rule.TRUNCATED, CUT_OFF) from None
        if first is not None and content_hash(image) != content_hash(first):
            raise Refused(Rule.TRUNCATED, CUT_OFF)
        first = image
    return first


def open_header(data: bytes) -> Image.Image:
    """Identify the image without decoding its pixels; raises `Refused`."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise refusal_of(data) from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        reason = f"its header announces more than {most} pixels, the most that Pillow opens"
        raise Refused(Rule.TOO_LARGE, reason) from None
    except MemoryError:
        raise
    except Exception as error:  # as above: a header can break a decoder in any way
        raise refusal_from(error) from None


def refusal_from(error: Exception) -> Refused:
    """Return the refusal for a decoder's error, without the error's text, which may hold addresses and paths."""
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return Refused(Rule.TRUNCATED, CUT_OFF)
    return Refused(Rule.CORRUPT, f"its pixels cannot be decoded ({type(error).__name__})")


def upright(image: Image.Image) -> Image.Image:
    """Turn the image upright by its EXIF orientation; with broken metadata it stays as it is."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a viewer shows such an image unturned, and so do we: the pixels are sound
        turn = None
    return image if turn is None else image.transpose(turn)


def depth_of(image: Image.Image) -> int | None:
    """Return the bits of white for values of more than 8 bits: 16, or 12 in some TIFFs; None if white is not known."""
    if image.mode in RANGELESS and (image.format, image.mode) != RANGED:
        return None
    bits = image.tag_v2.get(BITS_PER_SAMPLE) if isinstance(image, TiffImageFile) else None
    return 12 if bits == (12,) else 16


def has_16_bits(image: Image.Image) -> bool:
    """Whether the file of an image that is not decoded yet stores values up to 65535, grey or colour."""
    if depth_of(image) == 12 or image.format not in SIXTEEN or not isinstance(image, ImageFile) or not image.tile:
        return False
    arguments = image.tile[0].args
    words = arguments if isinstance(arguments, tuple) else (arguments,)
    return image.mode.startswith("I;16") or any(word == 65535 or ";16" in str(word) for word in words)


def plain(image: Image.Image, depth: int | None = 16) -> Image.Image:
    """Convert to mode `L` or `RGB`, 8 bits, without transparency; `depth` is that of `depth_of`.

    Raises `Refused` for values without a known white, and for a picture that only its transparency draws.
    """
    if depth is None:
        reason = f"pixels of 32 bits or with a sign (mode {image.mode}) have no white; store 8 or 16 bits, unsigned"
        raise Refused(Rule.UNSUPPORTED, reason)
    if image.mode.startswith("I"):  # Pillow's own conversion clips at 255: all white
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> (depth - 8)).astype(np.uint8))
    try:
        image = on_white(image) if image.has_transparency_data else image
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    except Refused:
        raise
    except ValueError:
        raise Refused(Rule.UNSUPPORTED, f"mode {image.mode} has no way to RGB; store RGB or grey") from None
    return image if image.mode == "L" or not is_grey(image) else image.getchannel(0)


def on_white(image: Image.Image) -> Image.Image:
    """Put white behind the picture. Raises `Refused` if the result is all white, which would make such pictures equal.

    An opaque image of one colour is accepted.
    """
    layer = image.convert("RGBA")
    alpha = layer.getchannel("A")
    whole = Image.new("RGB", layer.size, "white")
    whole.paste(layer, mask=alpha)
    if np.asarray(alpha).min() < 255 and np.asarray(whole).min() == 255:
        raise Refused(Rule.BLANK, "blank once its transparent pixels are white; lay it on a colour that shows it")
    return whole


def is_grey(image: Image.Image) -> bool:
    """Whether an RGB image's three channels are equal."""
    pixels = np.asarray(image).reshape(-1, 3)
    first = pixels[:64]  # nearly every colour image shows it here
    return all(bool((part[:, :1] == part[:, 1:]).all()) for part in (first, pixels))


def content_hash(image: Image.Image) -> str:
    """Return sha256 of mode, size and pixels of a decoded image, equal for the same picture in another encoding."""
    width, height = image.size
    digest = hashlib.sha256(f"{image.mode} {width} {height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def channels_of(image: Image.Image) -> int:
    return 1 if image.mode == "L" else 3


def to_array(image: Image.Image, size: int, channels: int) -> UInt8[np.ndarray, "size size channels"]:
    """Return a decoded image as a network takes it: a square of `size` pixels, whatever its shape was.

    Resizing is bilinear with antialiasing, torchvision's default, so that a client of the model can do the same.
    """
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    if channels_of(image) != channels:
        image = image.convert("RGB")
    return np.asarray(image).reshape(size, size, channels)


def encode_png(image: Image.Image, compress_level: int = 6) -> bytes:
    """Encode the image as PNG; level 0 stores the pixels, so that the bytes depend on no zlib version."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()
