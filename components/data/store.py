"""The files that `prepare` writes for every later stage: memory-mapped images and labels, classes and statistics.

n   images of a split       h w  pixels, both `size`
c   channels, 1 or 3        k    classes
"""

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from jaxtyping import Int64, UInt8

TRAIN, VAL, TEST = SPLITS = ("train", "val", "test")

IMAGES = "images.npy"
LABELS = "labels.npy"
CONTENTS = "contents.npy"
"""File of each image's content hash (32 bytes), which identifies it independently of its position."""


@dataclass(frozen=True)
class Classes:
    """What a network depends on; it is unchanged when more images of the same classes arrive."""

    names: tuple[str, ...]
    """Class names; label i is names[i]."""
    size: int
    channels: int


@dataclass(frozen=True)
class Statistics:
    """Numbers that normalise images and describe the splits."""

    mean: tuple[float, ...]
    """Mean of each channel over the train split, with pixels in 0..1."""
    std: tuple[float, ...]
    """Standard deviation likewise; at least 1/255, so that a constant channel does not divide by zero."""
    counts: dict[str, dict[str, int]]
    """split -> class -> number of images."""


@dataclass(frozen=True)
class Split:
    """Images and labels of one split, both memory-mapped and read-only if they come from `open_split`.

    A mapped array is pickled as the name of its file, so that another process maps the file instead of copying it.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int64[np.ndarray, " n"]

    def at(self, rows: Int64[np.ndarray, " m"] | slice) -> "Split":
        """Return the images and labels of these rows; with a slice they stay mapped."""
        return Split(images=self.images[rows], labels=self.labels[rows])

    def __reduce__(self) -> tuple[object, ...]:
        return unpickle_split, (as_mapped_file(self.images), as_mapped_file(self.labels))


@dataclass(frozen=True)
class MappedFile:
    """A memory-mapped array without its bytes."""

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def open(self) -> np.ndarray:
        return np.memmap(self.path, mode="r", offset=self.offset, dtype=self.dtype, shape=self.shape)


def as_mapped_file(array: np.ndarray) -> np.ndarray | MappedFile:
    """Return a reference to the file of a mapped array; other arrays, and views of mapped ones, as they are."""
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap) or not array.flags.c_contiguous:
        return array
    return MappedFile(str(array.filename), array.offset, array.dtype.str, array.shape)


def unpickle_split(images: np.ndarray | MappedFile, labels: np.ndarray | MappedFile) -> Split:
    opened = [array.open() if isinstance(array, MappedFile) else array for array in (images, labels)]
    return Split(images=opened[0], labels=opened[1])


class SplitWriter:
    """Writes a split batch by batch; its images are never in memory together. Use it as a context manager."""

    def __init__(self, folder: Path, count: int, size: int, channels: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.left = count
        self.images = open_array(folder / IMAGES, "|u1", (count, size, size, channels))
        self.labels = open_array(folder / LABELS, "<i8", (count,))

    def add(self, images: UInt8[np.ndarray, "b h w c"], labels: Int64[np.ndarray, " b"]) -> None:
        self.left -= len(images)
        self.images.write(np.ascontiguousarray(images).data)
        self.labels.write(np.ascontiguousarray(labels, dtype="<i8").data)

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.images.close()
        self.labels.close()
        assert kind is not None or self.left == 0, f"{self.left} images fewer than announced"


def open_array(path: Path, dtype: str, shape: tuple[int, ...]) -> BinaryIO:
    """Open a new .npy file and write its header; the caller appends the elements in C order."""
    file = path.open("wb")
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file


def write_split(folder: Path, images: UInt8[np.ndarray, "n h w c"], labels: Int64[np.ndarray, " n"]) -> None:
    """Write a split that is already in memory: `folder`/images.npy and labels.npy."""
    count, size, _, channels = images.shape
    with SplitWriter(folder, count, size, channels) as writer:
        writer.add(images, labels)


def write_contents(folder: Path, contents: Sequence[str]) -> None:
    """Write the content hashes (hexadecimal) of a split's images, in their order."""
    with open_array(folder / CONTENTS, "|u1", (len(contents), 32)) as file:
        file.writelines(bytes.fromhex(content) for content in contents)


def read_contents(file: Path | BytesIO) -> list[bytes]:
    """Read the content hashes, each as 32 bytes, from the file `contents.npy`."""
    return [row.tobytes() for row in np.load(file)]


def open_split(folder: Path) -> Split:
    """Open the split in `folder`, mapped read-only, so that nothing is read before it is used."""
    return Split(images=np.load(folder / IMAGES, mmap_mode="r"), labels=np.load(folder / LABELS, mmap_mode="r"))


def write_classes(path: Path, classes: Classes) -> None:
    write_record(path, asdict(classes))


def read_classes(path: Path) -> Classes:
    record = json.loads(path.read_text(encoding="utf-8"))
    return Classes(names=tuple(record["names"]), size=record["size"], channels=record["channels"])


def write_statistics(path: Path, statistics: Statistics) -> None:
    write_record(path, asdict(statistics))


def read_statistics(path: Path) -> Statistics:
    record = json.loads(path.read_text(encoding="utf-8"))
    return Statistics(mean=tuple(record["mean"]), std=tuple(record["std"]), counts=record["counts"])


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Write JSON with the same bytes every time: sorted keys, exact floats, one trailing newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
