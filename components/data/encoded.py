"""Encoded bytes that Pillow refuses: what they are, and how to read them if only the pixels are wanted.

A PNG holds more than its pixels (texts, profiles, checksums of both), and a JPEG ends with a marker that holds none:
damage there loses no image. Pixels that are missing are never made up.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from components.data.records import Refused, Rule

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*")

TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""PNG chunks that Pillow inflates, up to a limit, although no pixel depends on them."""
TRANSPARENCY = b"tRNS"
"""The one ancillary chunk that the picture depends on."""
ANCILLARY = 0x20
"""The bit of a chunk's first letter that says that a decoder can do without the chunk."""

END = b"\xff\xd9"
"""The JPEG marker at the end of an image."""
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A marker that ends a JPEG's scan, which a stuffed byte, a restart marker or padding does not."""
FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
"""Markers of frame headers: sequential and progressive, Huffman and arithmetic."""
FILL = 16
"""Number of zeros at the end that are more than scan data: a picture of one colour may end in a few."""
SCAN = 0xDA
RESTART = 0xD0
EVERY = (1 << 64) - 1
"""Bit mask of all 64 coefficients of a block."""


def readings(data: bytes) -> Iterator[bytes]:
    """Yield other bytes to decode instead, if any can help. The image is whole if all of them give equal pixels."""
    for start, read in READINGS.items():
        if data.startswith(start):
            yield from read(data)


def strip_png(data: bytes) -> Iterator[bytes]:
    """Yield the PNG without its texts, its colour profile and every ancillary chunk whose checksum is wrong."""
    parts = [PNG]
    place = len(PNG)
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place) if place + 8 <= len(data) else (len(data), b"IEND")
        chunk = data[place : place + length + 12]
        place += length + 12
        if not kind[0] & ANCILLARY or kind == TRANSPARENCY or (kind not in TEXTS and is_sound(chunk)):
            parts.append(chunk)
    bare = b"".join(parts)
    if bare != data:
        yield bare


def is_sound(chunk: bytes) -> bool:
    """Whether a PNG chunk's checksum is right."""
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def close_jpeg(data: bytes) -> Iterator[bytes]:
    """Yield the JPEG with an end marker: once at its end, and twice after different further scan data.

    A decoder silently fills missing pixels with grey, but if any is missing, further data changes the pixels. The
    restart markers are for a file that is cut at one of its own, where a decoder skips all data up to the next.
    """
    kept = without_fill(data)
    if not has_every_scan(kept):
        return
    yield kept + END
    due = restart_due(kept)
    for noise in (b"\x55" * 64, b"\xfe\xa9" * 32):
        restarts = (bytes([0xFF, RESTART + (due + number) % 8]) + noise for number in range(8))
        yield kept + noise + b"".join(restarts) + END


def without_fill(data: bytes) -> bytes:
    """Remove the zeros of a download that ended early, and half an end marker."""
    written = data.rstrip(b"\0")
    if len(data) - len(written) < FILL:
        return data.rstrip(b"\xff")
    return written + b"\0" if written.endswith(b"\xff") else written  # ff 0 is a scan's byte ff


def restart_due(data: bytes) -> int:
    """Return the number of the next restart marker in a JPEG's last scan; a decoder skips data under another number."""
    scan = data.rfind(bytes([0xFF, SCAN]))
    place, number = max((data.rfind(bytes([0xFF, RESTART + number]), scan), number) for number in range(8))
    return (number + 1) % 8 if place >= 0 else 0


def is_unended(data: bytes) -> bool:
    """Whether the bytes are a JPEG in which no end marker follows the last scan.

    Pillow takes some of these for whole, namely if zeros follow, as in a download whose file was made at full length.
    """
    return data.startswith(JPEG) and data.rfind(END) < data.rfind(bytes([0xFF, SCAN]))


def has_every_scan(data: bytes) -> bool:
    """Whether the scans of a JPEG cover every coefficient of every component to its last bit."""
    covered: dict[int, int] = {}
    for kind, body in segments(data):
        try:
            if kind in FRAMES:
                covered = {body[6 + 3 * number]: 0 for number in range(body[5])}
            elif kind == SCAN:
                first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
                finished = EVERY >> (63 - last) & EVERY << first if bits & 15 == 0 and last < 64 else 0
                for component in body[1 : 1 + 2 * body[0] : 2]:
                    covered[component] = covered.get(component, 0) | finished
        except (IndexError, ValueError):  # a header that is cut off
            return False
    return len(covered) > 0 and all(coefficients == EVERY for coefficients in covered.values())


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, content) of a JPEG's headers up to its end, in one pass over the bytes."""
    place = 2
    while (found := MARKER.search(data, place)) is not None and found.end() + 2 <= len(data) and found[0] != END:
        length = int.from_bytes(data[found.end() : found.end() + 2])
        yield data[found.end() - 1], data[found.end() + 2 : found.end() + length]
        place = found.end() + length


READINGS: dict[bytes, Callable[[bytes], Iterator[bytes]]] = {PNG: strip_png, JPEG: close_jpeg}


class Kind(NamedTuple):
    """A kind of file that is not accepted as an image: how it starts, what it is, and what to do about it."""

    starts: tuple[bytes, ...]
    what: str
    remedy: str
    rule: Rule = Rule.NOT_AN_IMAGE


CONVERT = "convert it to PNG or JPEG"
FRAME = "take frames out of it as PNG or JPEG"
REMOVE = "remove it, or put the image in its place"
UNPACK = "unpack it"

BOXES = (
    Kind((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC photo", CONVERT, Rule.UNSUPPORTED),
    Kind((b"crx ",), "a camera's raw photo (CR3)", CONVERT, Rule.UNSUPPORTED),
    Kind((b"avif", b"avis"), "an AVIF image whose header is damaged", "fetch it again", Rule.CORRUPT),
    Kind((b"",), "a video (MP4 or QuickTime)", FRAME),
)
"""Kinds of files by the brand of an ISO media file."""
WORDS = (
    Kind((b"version https://git-lfs",), "a git-lfs pointer, which stands for a file", "run `git lfs pull`"),
    Kind(
        (b"<!doctype html", b"<html", b"<head", b"<body"), "a web page", "fetch the image again: that download failed"
    ),
    Kind((b"%!ps",), "PostScript", CONVERT),
    Kind((b"%pdf-",), "a PDF document", CONVERT),
    Kind((b"{", b"["), "JSON, or other text", REMOVE),
)
"""Kinds of files by their first words, in lower case."""
NUMBERS = (
    Kind((PNG, JPEG, b"GIF8"), "a PNG, JPEG or GIF whose header is damaged", "fetch it again", Rule.CORRUPT),
    Kind((b"8BPS",), "a Photoshop document", CONVERT, Rule.UNSUPPORTED),
    Kind((b"gimp xcf",), "a GIMP document", CONVERT, Rule.UNSUPPORTED),
    Kind((b"\0\0\1\0",), "a Windows icon", CONVERT, Rule.UNSUPPORTED),
    Kind((b"\xff\x0a", b"\0\0\0\x0cJXL "), "a JPEG XL image", CONVERT, Rule.UNSUPPORTED),
    Kind((b"v/1\1",), "an OpenEXR image", CONVERT, Rule.UNSUPPORTED),
    Kind((b"#?RADIANCE", b"#?RGBE"), "a Radiance HDR image", CONVERT, Rule.UNSUPPORTED),
    Kind((b"DDS ",), "a DirectDraw texture", CONVERT, Rule.UNSUPPORTED),
    Kind((b"SIMPLE  =",), "a FITS image", CONVERT, Rule.UNSUPPORTED),
    Kind((b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS"), "a camera's raw photo", CONVERT, Rule.UNSUPPORTED),
    Kind((b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1", b"OggS"), "a video", FRAME),
    Kind((b"PK\3\4", b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b", b"BZh", b"\xfd7zXZ"), "an archive", UNPACK),
    Kind((b"\x93NUMPY",), "a NumPy array", CONVERT),
    Kind((b"\x89HDF",), "an HDF5 file", CONVERT),
    Kind((b"\0\5\x16\7", b"\0\5\x16\0"), "macOS's notes about a file (AppleDouble)", REMOVE),
)
"""Kinds of files by their first bytes."""

TGA_TYPES = (1, 2, 3, 9, 10, 11)
TGA_BITS = (8, 15, 16, 24, 32)


def refusal_of(data: bytes) -> Refused:
    """Return the refusal of bytes in which Pillow finds no image: what they are, and what to do about it."""
    kind = kind_of(data)
    if kind is None:
        return Refused(Rule.NOT_AN_IMAGE, "no image format is known that starts as it does; store PNG or JPEG")
    return Refused(kind.rule, f"it is {kind.what}; {kind.remedy}")


def kind_of(data: bytes) -> Kind | None:
    words = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if data[4:8] == b"ftyp":
        return first_match(BOXES, data[8:12])
    if data[:4] == b"RIFF" and data[8:12] in (b"AVI ", b"WAVE"):
        return Kind((), "a video or sound (RIFF)", FRAME)
    if data[128:132] == b"DICM":
        return Kind((), "a DICOM image", CONVERT, Rule.UNSUPPORTED)
    if data.startswith(TIFF):
        return kind_of_tiff(data)
    return first_match(NUMBERS, data) or first_match(WORDS, words) or kind_of_text(words) or kind_of_tga(data)


def first_match(kinds: tuple[Kind, ...], data: bytes) -> Kind | None:
    return next((kind for kind in kinds if data.startswith(kind.starts)), None)


def kind_of_tiff(data: bytes) -> Kind:
    """Return the kind of a TIFF that Pillow refuses, with its number of bands if that can be read."""
    try:
        directory = ImageFileDirectory_v2(data[:8])
        source = io.BytesIO(data)
        source.seek(directory.next)
        directory.load(source)
        bands = directory.get(277, 1)
    except MemoryError:
        raise
    except Exception:  # as in decode: a header of hostile bytes breaks in any way
        return Kind((), "a TIFF whose header is damaged", "fetch it again", Rule.CORRUPT)
    what = f"a TIFF of {bands} bands" if isinstance(bands, int) and bands > 4 else "a TIFF with uncommon pixels"
    return Kind((), what, "store grey, RGB or RGBA of 8 or 16 bits", Rule.UNSUPPORTED)


def kind_of_text(words: bytes) -> Kind | None:
    """Return the kind of SVG, XML or other text; None if it is no text."""
    if b"<svg" in words:
        return Kind((), "an SVG drawing", CONVERT, Rule.UNSUPPORTED)
    try:
        text = words.decode()
    except UnicodeDecodeError as error:  # cut within its last letter, perhaps
        text = words[: error.start].decode() if len(words) - error.start < 4 else "\0"
    readable = text.strip() != "" and all(letter.isprintable() or letter.isspace() for letter in text)
    return Kind((), "text", REMOVE) if readable else None


def kind_of_tga(data: bytes) -> Kind | None:
    """Return the kind of a TGA image, which has no mark at its start: by a plausible header or the mark at its end."""
    likely = len(data) > 18 and data[1] in (0, 1) and data[2] in TGA_TYPES and data[16] in TGA_BITS
    if (likely and any(data[12:14]) and any(data[14:16])) or data[-18:].startswith(b"TRUEVISION-XFILE"):
        return Kind((), "a TGA image", CONVERT, Rule.UNSUPPORTED)
    return None
