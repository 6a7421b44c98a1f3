"""Preparation of the splits that training reads from `data/raw`: each image is decoded once, none is kept in memory.

h w  pixels, both `size`    c  channels    histogram[c, v]  train pixels whose channel c has the value v
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from components.data.images import decode, to_array
from components.data.raw import read_images, read_index
from components.data.records import Refused
from components.data.split import Shares, count_classes, require_every_class, splits_of
from components.data.store import Classes, SplitWriter, Statistics, write_contents
from components.progress import Progress
from components.settings.data import Data


def prepare(
    raw: Path, record: Path, data: Data, folders: Mapping[str, Path], progress: Progress
) -> tuple[Classes, Statistics]:
    """Decode every image and write it to the folder of its recorded split (components.data.split).

    Raises ValueError if the record does not fit the images or the settings, or a split lacks a class.
    """
    index = read_index(raw)
    assigned = splits_of(index.contents, Shares.of(data, index.splits), record)
    counts = count_classes(assigned, index.labels.tolist(), index.names)
    require_every_class(counts, own_test="test" in index.splits)
    classes = Classes(names=index.names, size=data.size, channels=index.channels)
    images = progress(decode_all(raw, classes), len(assigned), "prepare")
    mean, std = moments(write_splits(images, index.labels, assigned, classes, folders))
    for split, folder in folders.items():
        write_contents(folder, [own for own, where in zip(index.contents, assigned, strict=True) if where == split])
    return classes, Statistics(mean=mean, std=std, counts=counts)


def decode_all(raw: Path, classes: Classes) -> Iterator[UInt8[np.ndarray, "h w c"]]:
    """Yield every image of `raw` in the order of its index, as a square of the classes' size and channels."""
    for path, data in read_images(raw):
        try:
            yield to_array(decode(data), classes.size, classes.channels)
        except Refused as refused:  # it was sound at ingest: this Pillow differs from that one
            told = f"{path} can no longer be decoded ({refused}); run `python -m flows.ingest` again"
            raise ValueError(told) from None


def write_splits(
    images: Iterable[UInt8[np.ndarray, "h w c"]],
    labels: Int64[np.ndarray, " n"],
    assigned: Sequence[str],
    classes: Classes,
    folders: Mapping[str, Path],
) -> Int64[np.ndarray, "c 256"]:
    """Append each image to its split's files; return the histogram."""
    histogram = np.zeros((classes.channels, 256), dtype=np.int64)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(SplitWriter(folder, assigned.count(split), classes.size, classes.channels))
            for split, folder in folders.items()
        }
        for image, label, split in zip(images, labels, assigned, strict=True):
            writers[split].add(image[None], np.array([label]))
            if split == "train":
                histogram += np.stack([np.bincount(image[..., c].flat, minlength=256) for c in range(len(histogram))])
    return histogram


def moments(histogram: Int64[np.ndarray, "c 256"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel, with pixels in 0..1; exact sums make the images' order irrelevant."""
    values = list(range(256))
    mean, std = [], []
    for counts in histogram.tolist():
        n = sum(counts)
        first = sum(count * value for count, value in zip(counts, values, strict=True))
        second = sum(count * value**2 for count, value in zip(counts, values, strict=True))
        mean.append(first / n / 255)
        std.append(max(1.0, math.sqrt((n * second - first**2) / n**2)) / 255)
    return tuple(mean), tuple(std)
