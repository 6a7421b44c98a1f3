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


JPEG = encoded(picture(width=64, height=64), "JPEG")
PNG = encoded(picture(width=64, height=64))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_announces(width: int, height: int) -> bytes:
    """A valid PNG header of a few hundred bytes in front of next to no pixels."""
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


def pgm_of_16_bits(pixels: Sequence[int], white: int = 65535) -> bytes:
    return b"P5 %d 1 %d\n" % (len(pixels), white) + struct.pack(f">{len(pixels)}H", *pixels)


def test_a_portable_graymap_of_16_bits_keeps_its_upper_bits() -> None:
    assert np.asarray(decode(pgm_of_16_bits([0, 256, 65535]))).tolist() == [[0, 1, 255]]
    assert np.asarray(decode(pgm_of_16_bits([0, 2048, 4095], white=4095))).tolist() == [[0, 128, 255]]


def png_of_16_bit_colour(*pixels: tuple[int, int, int]) -> bytes:
    row = b"\0" + b"".join(struct.pack(">3H", *pixel) for pixel in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", len(pixels), 1, 16, 2, 0, 0, 0))
    return PNG[:8] + header + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


def grey_of_16_bits(how: str, *values: int) -> bytes:
    return encoded(Image.fromarray(np.array([values], dtype=np.uint16)), how)


LOW = {
    "8 bits in a PNG": (grey_of_16_bits("PNG", 0, 100, 255), 256),
    "12 bits in a PNG": (grey_of_16_bits("PNG", 0, 100, 4095), 4096),
    "12 bits in a TIFF": (grey_of_16_bits("TIFF", 0, 100, 4095), 4096),
    "12 bits in a PGM": (pgm_of_16_bits([0, 4095]), 4096),
    "12 bits in a colour PNG": (png_of_16_bit_colour((0, 1, 2), (4095, 7, 0)), 4096),
}


@pytest.mark.parametrize("name", LOW)
def test_16_bits_of_which_only_the_lower_are_used_are_refused_not_black(name: str) -> None:
    data, below = LOW[name]
    with pytest.raises(Refused, match=f"16-bit image that uses only values below {below} would be black") as refused:
        decode(data)
    assert refused.value.rule == Rule.UNSUPPORTED


def test_a_dark_picture_of_16_bits_stays_as_dark_as_it_is() -> None:
    """One value at a sixteenth of white is enough; and 8 bits may be as dark as they like."""
    assert np.asarray(decode(grey_of_16_bits("PNG", 0, 100, 4096))).tolist() == [[0, 0, 16]]
    assert decode(png_of_16_bit_colour((0, 0, 0), (0, 4096, 0))).getpixel((1, 0)) == (0, 16, 0)
    assert np.asarray(decode(encoded(Image.new("L", (2, 1), 3)))).tolist() == [[3, 3]]


@pytest.mark.parametrize("how", ["PNG", "WEBP", "GIF"])
def test_a_picture_drawn_in_white_on_nothing_is_blank_and_says_so(how: str) -> None:
    icon = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    icon.paste((255, 255, 255, 255), (2, 2, 5, 5))
    with pytest.raises(Refused, match="blank once its transparent pixels are white") as refused:
        decode(encoded(icon, how))
    assert refused.value.rule == Rule.BLANK


def test_a_picture_of_one_opaque_colour_is_a_picture() -> None:
    for mode, colour in (("L", 255), ("RGB", (255, 255, 255)), ("RGBA", (255, 255, 255, 255)), ("RGB", (9, 99, 9))):
        assert decode(encoded(Image.new(mode, (4, 4), colour))).size == (4, 4)
    assert decode(encoded(Image.new("RGBA", (4, 4), (200, 0, 0, 128)))).mode == "RGB"


def test_a_palette_gives_its_colours() -> None:
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    assert decode(encoded(image.convert("P", palette=Image.Palette.ADAPTIVE))).getpixel((0, 0)) == (10, 20, 30)


def premultiplied() -> bytes:
    """Grey with alpha, as TIFF's tag ExtraSamples says of it: its value 2 made 1."""
    plain = encoded(Image.new("LA", (8, 8)), "TIFF")
    tag = struct.pack("<HHI", 338, 3, 1)
    assert plain.count(tag) == 1
    return plain.replace(tag + b"\x02", tag + b"\x01")


HEADER = 33
"""Bytes of a PNG before its first chunk that may be left out."""


def with_chunks(*chunks: bytes, at: int = HEADER) -> bytes:
    return PNG[:at] + b"".join(chunks) + PNG[at:]


LONG = zlib.compress(bytes(3 << 20))
WRONG = b"crc?"
BURDENED = {
    "3 MB of text": with_chunks(chunk(b"zTXt", b"prompt\0\0" + LONG)),
    "3 MB of text after the pixels": with_chunks(chunk(b"zTXt", b"prompt\0\0" + LONG), at=len(PNG) - 12),
    "3 MB of colour profile": with_chunks(chunk(b"iCCP", b"profile\0\0" + LONG)),
    "a text's wrong checksum": with_chunks(chunk(b"tEXt", b"by\0me")[:-4] + WRONG),
    "a time's wrong checksum": with_chunks(chunk(b"tIME", bytes(7))[:-4] + WRONG),
}


@pytest.mark.parametrize("name", BURDENED)
def test_what_a_png_says_beside_its_pixels_costs_no_image(name: str) -> None:
    assert content_hash(decode(BURDENED[name], max_pixels=5_000)) == content_hash(decode(PNG))


def test_a_png_is_upright_and_transparent_also_where_its_text_is_left_out() -> None:
    image = picture(channels=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    for whole in (encoded(image, exif=exif), encoded(image, transparency=image.getpixel((0, 0)))):
        text = chunk(b"tEXt", b"by\0me")[:-4] + WRONG
        assert content_hash(decode(whole[:HEADER] + text + whole[HEADER:])) == content_hash(decode(whole))


@pytest.mark.parametrize("kind", [b"tRNS", b"PLTE", b"IHDR"])
def test_damage_to_what_a_png_is_drawn_with_is_refused(kind: bytes) -> None:
    whole = encoded(picture(channels=1).convert("P"), transparency=3)
    place = whole.index(kind) + 5
    with pytest.raises(Refused) as refused:
        decode(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert refused.value.rule == Rule.CORRUPT


SMOOTH = Image.fromarray(np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8) * 2)
JPEGS = {
    "of one scan": encoded(picture(width=64, height=48), "JPEG", quality=90),
    "smooth": encoded(SMOOTH, "JPEG", quality=60, optimize=True),
    "progressive": encoded(picture(width=64, height=48), "JPEG", progressive=True),
    "with restart markers": encoded(picture(width=64, height=48), "JPEG", restart_marker_blocks=2),
    "progressive with restart markers": encoded(SMOOTH, "JPEG", progressive=True, restart_marker_blocks=3),
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_that_lacks_its_end_alone_gives_its_pixels(name: str, lost: int) -> None:
    whole = JPEGS[name]
    for rest in (b"", bytes(100)):
        assert content_hash(decode(whole[:-lost] + rest, max_pixels=5_000)) == content_hash(decode(whole))


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_pixels_never_gives_others_in_their_place(name: str) -> None:
    """Its decoder would paint grey, silently: with zeros in the lost place it needs no more than that to be content."""
    whole = JPEGS[name]
    scan = whole.index(b"\xff\xda")
    for end in [*range(scan, len(whole) - 60, 13), *range(len(whole) - 60, len(whole) - 2)]:
        for rest in (b"", bytes(100), bytes(5_000)):
            with contextlib.suppress(Refused):
                assert content_hash(decode(whole[:end] + rest)) == content_hash(decode(whole))


def test_a_jpeg_cut_in_its_middle_or_between_two_scans_is_truncated() -> None:
    whole = JPEGS["progressive"]
    for end in (len(whole) // 2, whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xc4")):
        for rest in (b"", bytes(5_000)):
            with pytest.raises(Refused, match="the file ends before its last pixel"):
                decode(whole[:end] + rest)


def test_a_jpeg_without_end_that_is_too_large_is_not_decoded() -> None:
    with pytest.raises(Refused, match="64 x 48 pixels"):
        decode(JPEGS["of one scan"][:-2], max_pixels=100)


def tiff_of_bands(bands: int) -> bytes:
    """A TIFF's header that announces pixels of so many bands."""
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: bands, 278: 1, 279: bands}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + directory + bytes(4)


FOREIGN = {
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Rule.UNSUPPORTED, "a HEIC photo; convert it to PNG or JPEG"),
    "TGA": (encoded(picture(), "TGA"), Rule.UNSUPPORTED, "a TGA image; convert"),
    "icon": (encoded(picture(), "ICO"), Rule.UNSUPPORTED, "a Windows icon; convert"),
    "bands": (tiff_of_bands(13), Rule.UNSUPPORTED, "a TIFF of 13 bands; store grey, RGB or RGBA"),
    "SVG": (b'<?xml version="1.0"?>\n<svg width="1"></svg>', Rule.UNSUPPORTED, "an SVG drawing; convert"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", Rule.NOT_AN_IMAGE, "pointer.* run `git lfs pull`"),
    "page": (b"\n<!DOCTYPE html><html>404", Rule.NOT_AN_IMAGE, "a web page; fetch the image again"),
    "PDF": (b"%PDF-1.7\n\xff", Rule.NOT_AN_IMAGE, "a PDF document; convert"),
    "video": (b"\0\0\0\x18ftypisom\0\0\2\0", Rule.NOT_AN_IMAGE, "a video .*; take frames"),
    "archive": (b"PK\3\4\x14\0\0", Rule.NOT_AN_IMAGE, "an archive; unpack it"),
    "array": (b"\x93NUMPY\1\0v", Rule.NOT_AN_IMAGE, "a NumPy array"),
    "text": ("ünread notes\n".encode(), Rule.NOT_AN_IMAGE, "it is text; remove it"),
    "damaged": (PNG[:12] + bytes(40), Rule.CORRUPT, "header is damaged"),
    "zeros": (bytes(500), Rule.NOT_AN_IMAGE, "no image format is known"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_image_for_us_is_named_with_what_to_do(name: str) -> None:
    data, rule, sentence = FOREIGN[name]
    with pytest.raises(Refused, match=sentence) as refused:
        decode(data)
    assert refused.value.rule == rule


BROKEN = {
    "text": (b"not an image at all\n" * 20, Rule.NOT_AN_IMAGE),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", Rule.NOT_AN_IMAGE),
    "jpeg cut in its pixels": (JPEG[: len(JPEG) // 2], Rule.TRUNCATED),
    "png cut in its pixels": (PNG[: len(PNG) // 2], Rule.TRUNCATED),
    "png with noise for pixels": (PNG[:60] + bytes(range(256)) * 20, Rule.CORRUPT),
    "400 megapixels announced": (png_that_announces(20_000, 20_000), Rule.TOO_LARGE),
    "64 megapixels announced": (png_that_announces(8_000, 8_000), Rule.TOO_LARGE),
    "premultiplied alpha": (premultiplied(), Rule.UNSUPPORTED),
    "32-bit integers": (encoded(Image.fromarray(np.zeros((2, 2), dtype=np.int32)), "TIFF"), Rule.UNSUPPORTED),
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


def test_noise_after_the_start_of_any_format_is_refused_but_never_a_traceback() -> None:
    rng = np.random.default_rng(0)
    for start in (
        b"",
        PNG[:8],
        PNG[:HEADER],
        JPEG[:3],
        JPEG[:25],
        b"II*\0",
        b"MM\0*\0\0\0\x08",
        b"\0\0\0\x18ftyp",
        b"RIFF",
    ):
        for length in (*range(20), *rng.integers(20, 300, 20)):
            with pytest.raises(Refused):
                decode(start + rng.bytes(int(length)), max_pixels=10_000)


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
