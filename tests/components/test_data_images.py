"""Claims about decoding: what is an image, what it looks like, when two are the same."""

import contextlib
import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageFile

from components.data.images import channels_of, content_hash, decode, encode_png, to_array
from components.data.records import Refused, Rule


def picture(seed: int = 0, width: int = 12, height: int = 8, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels > 1 else pixels[..., 0])


def encoded(image: Image.Image, how: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=how, **options)
    return buffer.getvalue()


def png_that_announces(width: int, height: int) -> bytes:
    """A valid PNG header of a few hundred bytes in front of next to no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("how", "options"), [("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PPM", {})])
def test_a_picture_in_another_encoding_has_the_same_hash(how: str, options: dict[str, object]) -> None:
    image = picture()
    assert content_hash(decode(encoded(image, how, **options))) == content_hash(decode(encoded(image)))


def test_one_changed_pixel_changes_the_hash() -> None:
    image = picture()
    before = content_hash(decode(encoded(image)))
    image.putpixel((3, 3), tuple(255 - value for value in image.getpixel((3, 3))))
    assert content_hash(decode(encoded(image))) != before


def test_the_same_pixels_in_another_shape_have_another_hash() -> None:
    assert content_hash(Image.new("L", (2, 8))) != content_hash(Image.new("L", (4, 4)))


def test_grey_stored_as_colour_is_grey() -> None:
    grey = picture(channels=1)
    stored = decode(encoded(grey.convert("RGB")))
    assert channels_of(stored) == 1
    assert content_hash(stored) == content_hash(decode(encoded(grey)))


def test_colour_in_one_late_pixel_is_colour() -> None:
    image = picture(channels=1).convert("RGB")
    image.putpixel((11, 7), (1, 2, 3))
    assert channels_of(decode(encoded(image))) == 3


def test_an_image_stored_sideways_is_turned_upright() -> None:
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to view"
    sideways = image.transpose(Image.Transpose.ROTATE_90)
    assert content_hash(decode(encoded(sideways, exif=exif))) == content_hash(decode(encoded(image)))


def test_broken_metadata_costs_no_image() -> None:
    image = picture()
    assert content_hash(decode(encoded(image, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))) == content_hash(image)


def test_shapes_drawn_in_transparency_alone_differ_and_lie_on_white() -> None:
    shapes = [Image.new("RGBA", (8, 8), (0, 0, 0, 0)) for _ in range(2)]
    for place, shape in enumerate(shapes):
        shape.putpixel((place, 0), (0, 0, 0, 255))
    first, second = (decode(encoded(shape)) for shape in shapes)
    assert content_hash(first) != content_hash(second)
    assert (first.getpixel((0, 0)), first.getpixel((1, 0))) == (0, 255)


def test_sixteen_bit_grey_keeps_its_upper_bits() -> None:
    stored = Image.fromarray(np.array([[0, 255, 256, 4096, 65535]], dtype=np.uint16))
    assert np.asarray(decode(encoded(stored))).tolist() == [[0, 0, 1, 16, 255]]


def test_twelve_bit_grey_keeps_its_upper_bits() -> None:
    """Pillow opens it in its 16-bit mode: read as 16 bits it would be nearly black."""
    stored = tiff_of_12_bits([0, 15, 16, 2048, 4080, 4095])
    assert np.asarray(decode(stored)).tolist() == [[0, 0, 1, 128, 255, 255]]


def tiff_of_12_bits(pixels: Sequence[int]) -> bytes:
    """One row, an even number of pixels: two in three bytes."""
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(pixels[::2], pixels[1::2], strict=True)
    )
    width, height, bits, compression, photometric, offsets, samples, rows, counts = (
        256, 257, 258, 259, 262, 273, 277, 278, 279
    )  # fmt: skip
    tags = {
        width: len(pixels), height: 1, bits: 12, compression: 1, photometric: 1, offsets: 8, samples: 1, rows: 1,
        counts: len(packed),
    }  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + directory + bytes(4)
    )


def test_a_palette_gives_its_colours() -> None:
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    assert decode(encoded(image.convert("P", palette=Image.Palette.ADAPTIVE))).getpixel((0, 0)) == (10, 20, 30)


JPEG = encoded(picture(width=64, height=64), "JPEG")
PNG = encoded(picture(width=64, height=64))


def premultiplied() -> bytes:
    """Grey with alpha, as TIFF's tag ExtraSamples says of it: its value 2 made 1."""
    plain = encoded(Image.new("LA", (8, 8)), "TIFF")
    tag = struct.pack("<HHI", 338, 3, 1)
    assert plain.count(tag) == 1
    return plain.replace(tag + b"\x02", tag + b"\x01")


BROKEN = {
    "text": (b"not an image at all\n" * 20, Rule.NOT_AN_IMAGE),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", Rule.NOT_AN_IMAGE),
    "jpeg cut in its pixels": (JPEG[: len(JPEG) // 2], Rule.TRUNCATED),
    "png cut in its pixels": (PNG[: len(PNG) // 2], Rule.TRUNCATED),
    "png with noise for pixels": (PNG[:60] + bytes(range(256)) * 20, Rule.CORRUPT),
    "400 megapixels announced": (png_that_announces(20_000, 20_000), Rule.TOO_LARGE),
    "64 megapixels announced": (png_that_announces(8_000, 8_000), Rule.TOO_LARGE),
    "premultiplied alpha": (premultiplied(), Rule.UNSUPPORTED),
    "32-bit floats": (encoded(Image.new("F", (8, 8)), "TIFF"), Rule.UNSUPPORTED),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_refused_by_rule_with_a_repeatable_reason(name: str) -> None:
    data, rule = BROKEN[name]
    with pytest.raises(Refused) as first:
        decode(data, max_pixels=50_000_000)
    with pytest.raises(Refused) as second:
        decode(bytes(bytearray(data)), max_pixels=50_000_000)
    assert first.value.rule == rule
    assert first.value.reason == second.value.reason
    assert "0x" not in first.value.reason


def test_noise_in_any_place_is_refused_or_decoded_but_never_a_traceback() -> None:
    rng = np.random.default_rng(0)
    for original in (JPEG, PNG, encoded(picture(), "GIF"), encoded(picture(), "WEBP"), encoded(picture(), "TIFF")):
        for _ in range(40):
            data = bytearray(original)
            for place in rng.integers(0, len(data), 8):
                data[place] = rng.integers(0, 256)
            with contextlib.suppress(Refused):
                assert decode(bytes(data), max_pixels=10_000).mode in ("L", "RGB")


def test_what_is_too_large_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        pytest.fail("the pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(Refused, match="8000 x 8000"):
        decode(png_that_announces(8_000, 8_000), max_pixels=50_000_000)


def test_arrays_are_square_of_the_asked_size_and_channels() -> None:
    assert to_array(decode(encoded(picture(channels=1))), 16, 3).shape == (16, 16, 3)
    assert to_array(decode(encoded(picture(channels=1))), 16, 1).shape == (16, 16, 1)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = picture(width=8, height=8)
    assert np.array_equal(to_array(image, 8, 3), np.asarray(image))


def test_png_loses_nothing() -> None:
    image = picture()
    for level in (0, 6):
        assert np.array_equal(np.asarray(decode(encode_png(image, level))), np.asarray(image))
