"""The `torchvision:NAME` source: any torchvision classification data set that is already on disk, by its class name."""

import difflib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import default_loader

from components.data.folder import most_bytes, read_file
from components.data.images import encode_png, upright
from components.data.records import Record, Rule, Source, refuse, relative
from components.settings.data import Data
from components.settings.require import require

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")

Parts = tuple[tuple[Mapping[str, object], str | None], ...]
"""(constructor arguments, the source's own split) for each part of a data set; `test` is never trained on."""

WHOLE: Parts = (({}, None),)
TRAIN_FLAG: Parts = (({"train": True}, "train"), ({"train": False}, "test"))
SPLIT_WORD: Parts = (({"split": "train"}, "train"), ({"split": "test"}, "test"))
WITH_VAL: Parts = (({"split": "train"}, "train"), ({"split": "val"}, "train"), ({"split": "test"}, "test"))
TRAINVAL: Parts = (({"split": "trainval"}, "train"), ({"split": "test"}, "test"))
VAL_AS_TEST: Parts = (({"split": "train"}, "train"), ({"split": "val"}, "test"))

PARTS: dict[str, Parts] = {
    "Country211": (({"split": "train"}, "train"), ({"split": "valid"}, "train"), ({"split": "test"}, "test")),
    "DTD": WITH_VAL,
    "EMNIST": (({"split": "balanced", "train": True}, "train"), ({"split": "balanced", "train": False}, "test")),
    "FGVCAircraft": TRAINVAL,
    "Flowers102": WITH_VAL,
    "ImageNet": VAL_AS_TEST,
    "Imagenette": VAL_AS_TEST,
    "OxfordIIITPet": TRAINVAL,
    "PCAM": WITH_VAL,
    "Places365": (({"split": "train-standard", "small": True}, "train"), ({"split": "val", "small": True}, "test")),
    "RenderedSST2": WITH_VAL,
}
"""The parts of data sets whose constructor's signature does not show them."""


def open_data_set(name: str, data: Data) -> Source:
    """Open every part of torchvision.datasets.`name`, without downloading anything.

    If the data set consists of image files, their own bytes are taken and decoded as from every source and for a model
    in service (torchvision's loader ignores EXIF and turns 16 bits white); else its items are encoded as PNG. Raises
    ValueError if there is no such data set, it is not in data.path, or it is no classification data set.
    """
    maker = find_class(name)
    parts = [(construct(name, maker, data.path, arguments), split) for arguments, split in parts_of(name, maker)]
    classes = class_names(parts[0][0])
    return Source(
        name=data.source,
        classes=classes,
        count=sum(len(dataset) for dataset, _ in parts),
        records=(record for dataset, split in parts for record in read_part(name, dataset, split, classes, data)),
    )


def find_class(name: str) -> type[Any]:
    """Return torchvision.datasets.NAME; raises ValueError, with the most similar name, if there is none."""
    maker: Any = getattr(torchvision.datasets, name, None)
    known = inspect.isclass(maker) and issubclass(maker, Dataset) and maker is not torchvision.datasets.VisionDataset
    close = difflib.get_close_matches(name, torchvision.datasets.__all__, n=1, cutoff=0.4)
    hint = f"did you mean torchvision:{close[0]}?" if close else "see torchvision.datasets for the names"
    require(known, f"data.source is torchvision:{name}, which is no data set of torchvision; {hint}")
    found: type[Any] = maker
    return found


def parts_of(name: str, maker: type[Any]) -> Parts:
    """Return the parts to read, from the table or by the constructor's parameters."""
    accepted = inspect.signature(maker).parameters
    usual = TRAIN_FLAG if "train" in accepted else SPLIT_WORD if "split" in accepted else WHOLE
    return PARTS.get(name, usual)


def construct(name: str, maker: type[Any], root: str | None, arguments: Mapping[str, object]) -> Any:
    """Open one part from `root` without downloading; raises ValueError for whatever torchvision says is missing."""
    accepted = inspect.signature(maker).parameters
    given = dict(arguments) | ({"download": False} if "download" in accepted else {})
    if "root" in accepted:
        present = root is not None and Path(root).is_dir()
        require(present, f"data.path is {root!r}; set it to the folder that holds torchvision's {name}")
        given["root"] = root
    needed = [
        key
        for key, value in accepted.items()
        if value.default is value.empty and value.kind is value.POSITIONAL_OR_KEYWORD and key not in given
    ]
    require(not needed, f"torchvision:{name} needs {', '.join(needed)}, which cannot be set; use class folders instead")
    try:
        return maker(**given)
    except Exception as error:  # constructors of seventy data sets on whatever lies there
        said = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        told = f"torchvision:{name} cannot be opened in data.path {root!r} ({said}); download or repair it there first"
        raise ValueError(told) from None


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """Return the data set's class names (several names of a class joined), or None if they tell no classes apart."""
    stored = getattr(dataset, "classes", getattr(dataset, "categories", None))
    if not isinstance(stored, list | tuple) or not all(isinstance(name, str | tuple) for name in stored):
        return None
    names = tuple(name if isinstance(name, str) else ", ".join(name) for name in stored)
    return names if names and len(set(names)) == len(names) else None


def read_part(
    name: str, dataset: Any, split: str | None, classes: tuple[str, ...] | None, data: Data
) -> Iterator[Record]:
    """Yield the items of one part; one that torchvision cannot read is refused, and the others go on."""
    give_files(dataset)
    for index in range(len(dataset)):
        path = f"{split or 'all'}/{index:06d}"
        try:
            image, target = dataset[index]
        except Exception as error:  # loaders of seventy data sets on whatever bytes lie there
            refusal = partial(refuse, Rule.UNREADABLE, f"torchvision cannot read it ({type(error).__name__})")
            yield Record(path=path, label=None, split=split, read=refusal)
            continue
        require(
            isinstance(image, Image.Image | str | Path) and is_label(target),
            f"torchvision:{name} gives ({type(image).__name__}, {type(target).__name__}) items; "
            "only data sets of (image, class) can be used",
        )
        if isinstance(image, Image.Image):
            read = partial(encode_item, image)
        else:
            path = relative(os.path.relpath(image, data.path))
            read = partial(read_file, Path(image), most_bytes(data))
        yield item_record(path, read, int(target), split, classes)


def give_files(dataset: Any) -> None:
    """Make a data set that loads image files by torchvision's own function give their paths instead."""
    for name in ("loader", "_loader"):
        if hasattr(dataset, name) and getattr(dataset, name) in (default_loader, None):
            setattr(dataset, name, lambda path: path)


def is_label(target: object) -> bool:
    """Whether an item's target is one class number."""
    single = isinstance(target, torch.Tensor | np.ndarray) and target.ndim == 0
    return single or isinstance(target, int | np.integer)


def item_record(
    path: str, read: Callable[[], bytes], label: int, split: str | None, classes: tuple[str, ...] | None
) -> Record:
    """Return the record of one item; a label outside the class names is refused."""
    if label < 0 or (classes is not None and label >= len(classes)):
        refusal = partial(refuse, Rule.UNKNOWN_CLASS, f"its label is {label}, which has no class")
        return Record(path=path, label=None, split=split, read=refusal)
    text = classes[label] if classes is not None else str(label)
    return Record(path=path, label=text, split=split, read=read)


def encode_item(image: Image.Image) -> bytes:
    """Encode an item that torchvision decoded as PNG, turned upright."""
    return encode_png(upright(image if image.mode in PNG_MODES else image.convert("RGB")))
