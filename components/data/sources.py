"""The sources of labelled images that data.source can name; a new source is one line of SOURCES."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from PIL import Image

from components.data.folder import open_folder
from components.data.images import encode_png
from components.data.parquet import open_parquet
from components.data.records import Record, Source
from components.settings.data import Data

TORCHVISION = "torchvision:"


def open_source(data: Data) -> Source:
    """Open what data.source and data.path name; raises ValueError if nothing usable is there."""
    kind = TORCHVISION if data.source.startswith(TORCHVISION) else data.source
    return SOURCES[kind](data)


def open_digits(data: Data) -> Source:
    """Open scikit-learn's 1,797 handwritten digits (8 x 8 pixels, grey, 10 classes), which the package contains."""
    from sklearn.datasets import load_digits  # takes a second, which other sources are spared

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # n h w, stored as 0..16
    names = tuple(str(name) for name in digits.target_names)

    def records() -> Iterator[Record]:
        for index, (pixels, label) in enumerate(zip(grey, digits.target, strict=True)):
            read = partial(encode_png, Image.fromarray(pixels), compress_level=0)
            yield Record(path=f"{index:04d}.png", label=names[label], read=read)

    return Source(name=data.source, classes=names, count=len(grey), records=records())


def open_torchvision(data: Data) -> Source:
    """Open a classification data set of torchvision's that is on disk; see components.data.torchvision_source."""
    from components.data.torchvision_source import open_data_set  # loads torch, which other sources are spared

    return open_data_set(data.source.removeprefix(TORCHVISION), data)


SOURCES: dict[str, Callable[[Data], Source]] = {
    "digits": open_digits,
    "folder": open_folder,
    "parquet": open_parquet,
    TORCHVISION: open_torchvision,
}
