"""The `parquet` source, Hugging Face layout: `image: {bytes, path}`, `label: int`, class names in the metadata.

It is a file, or a folder of shards. The word test in the name of a shard, or of its folder, makes it part of the
source's own test split, provided that other shards are called train or val. A val split of the source counts as train,
because the line draws its own.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.layout import OWN_SPLITS
from components.data.records import Record, Rule, Source, refuse, relative
from components.settings.data import Data
from components.settings.require import require

BATCH = 256
"""Number of rows in memory at a time."""
SPLIT_WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(OWN_SPLITS)})(?![a-z])")
"""The name of a split without a letter beside it, as in mnist_test.parquet or train-00000-of-00002.parquet."""


def open_parquet(data: Data) -> Source:
    """Open all shards, in order of file name. Raises ValueError for a missing or broken file, column or class name.

    Without class names in the metadata, the label numbers name the classes.
    """
    root = Path(data.path or "")
    shards = find_shards(root)
    classes = {shard: read_schema(root, shard) for shard in shards}
    names = next(iter(classes.values()))
    for shard, others in classes.items():
        same = f"{show(root, shard)} names other classes than {show(root, shards[0])}; all shards must agree"
        require(others == names, same)
    return Source(
        name=data.source,
        classes=names,
        count=sum(pq.read_metadata(shard).num_rows for shard in shards),
        records=(
            row for shard, split in own_splits(root, shards).items() for row in read_shard(root, shard, split, names)
        ),
    )


def find_shards(root: Path) -> list[Path]:
    """Return the file itself, or every visible *.parquet below the folder."""
    require(root.exists(), f"data.path is {str(root)!r}, which is not there; give a Parquet file or a folder of shards")
    if root.is_file():
        return [root]
    visible = (
        path
        for path in root.rglob("*.parquet")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    shards = sorted(visible, key=lambda path: path.relative_to(root).as_posix())
    require(len(shards) > 0, f"data.path {str(root)!r} holds no *.parquet file; give the folder of the shards")
    return shards


def own_splits(root: Path, shards: list[Path]) -> dict[Path, str | None]:
    """Return `test` for shards of that name and `train` for all others if both names occur, else None for all."""
    named = {shard: own_split(shard.relative_to(root)) for shard in shards} if root.is_dir() else {}
    if not {"train", "test"} <= set(named.values()):
        return dict.fromkeys(shards)
    return {shard: "test" if word == "test" else "train" for shard, word in named.items()}


def own_split(shard: Path) -> str | None:
    """Return the split in the shard's name; if it holds none or two, that in its folder's name, and so on outwards."""
    for part in reversed(shard.parts):
        told = {OWN_SPLITS[word] for word in SPLIT_WORD.findall(part.lower())}
        if len(told) == 1:
            return told.pop()
    return None


def show(root: Path, shard: Path) -> str:
    """Return the shard as messages and reports name it, relative to data.path."""
    return relative(shard.name if shard == root else str(shard.relative_to(root)))


def read_schema(root: Path, shard: Path) -> tuple[str, ...] | None:
    """Check the shard's columns and return its class names; raises ValueError."""
    name = show(root, shard)
    try:
        schema = pq.read_schema(shard)
    except (pa.ArrowException, OSError):
        raise ValueError(f"{name} is no Parquet file that can be read; repair or remove it") from None
    for column in ("image", "label"):
        require(
            column in schema.names,
            f"{name} has no column {column!r} but {', '.join(schema.names)}; rename its columns to image and label",
        )
    image, label = schema.field("image").type, schema.field("label").type
    fields = {field.name: field.type for field in image} if pa.types.is_struct(image) else {}
    require(
        fields.get("bytes") in (pa.binary(), pa.large_binary()),
        f"{name} has images of type {image}; the column must be a struct with the encoded image in `bytes`",
    )
    require(pa.types.is_integer(label), f"{name} has labels of type {label}; the column must hold integers")
    return class_names(name, schema.metadata or {})


def class_names(shard: str, metadata: Mapping[bytes, bytes]) -> tuple[str, ...] | None:
    """Return features.label.names of the `huggingface` metadata, or None; raises ValueError if they are malformed."""
    try:
        stored: Any = json.loads(metadata.get(b"huggingface", b"{}"))
        names = stored.get("info", stored).get("features", {}).get("label", {}).get("names")
    except (ValueError, AttributeError):
        raise ValueError(f"{shard} has metadata `huggingface` that is no JSON object of features; repair it") from None
    if names is None:
        return None
    proper = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    require(proper, f"{shard} has class names {names!r} in its metadata; they must be a list of texts")
    require(len(set(names)) == len(names), f"{shard} gives two classes the same name; names must differ")
    return tuple(names)


def read_shard(root: Path, shard: Path, split: str | None, names: tuple[str, ...] | None) -> Iterator[Record]:
    """Yield the shard's rows, `BATCH` in memory at a time. A row without a path is named by shard and row number."""
    name = show(root, shard)
    row = 0
    try:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=["image", "label"], use_threads=False):
                for image, label in zip(batch["image"].to_pylist(), batch["label"].to_pylist(), strict=True):
                    inner = (image or {}).get("path")
                    inside = relative(inner) if inner else f"row {row}"
                    path = inside if inner and shard == root else f"{name}/{inside}"
                    yield row_record(path, image or {}, label, split, names)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name} cannot be read after row {row} ({type(error).__name__}); repair it") from None


def row_record(
    path: str, image: Mapping[str, Any], label: int | None, split: str | None, names: tuple[str, ...] | None
) -> Record:
    """Return the record of one row; its `read` refuses a row without image bytes or with an unknown label."""
    if label is None or label < 0 or (names is not None and label >= len(names)):
        reason = f"its label is {label}; labels are 0 to {len(names) - 1 if names is not None else 'the last class'}"
        return Record(path=path, label=None, split=split, read=partial(refuse, Rule.UNKNOWN_CLASS, reason))
    text = names[label] if names is not None else str(label)
    data = image.get("bytes")
    if data is None:
        elsewhere = "its row holds the path of an image and no bytes; save the data set again with its images embedded"
        reason = elsewhere if image.get("path") else "its row holds no bytes"
        return Record(path=path, label=text, split=split, read=partial(refuse, Rule.EMPTY, reason))
    return Record(path=path, label=text, split=split, read=lambda: data)
