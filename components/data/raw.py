"""The folder `data/raw`: accepted images, encoded as they came, in up to 16 Parquet shards in Hugging Face's layout.

Shard images-<x>.parquet holds the images whose content hash starts with the hexadecimal digit x, sorted by that hash,
so that its bytes depend on the set of images alone, and few files suffice for any number of images.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from components.data.records import Entry

BUCKETS = "0123456789abcdef"
OWN = re.compile(rf"images-[{BUCKETS}]\.parquet|validation\.json|spill-[{BUCKETS}]")
"""Matches the names of the files that an ingest makes."""
GROUP_BYTES = 16 << 20
"""Number of encoded bytes after which a row group is written: a reader holds one at a time."""
GROUP_ROWS = 1024

FIELDS = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("split", pa.string()),
        ("content", pa.string()),
        ("channels", pa.int64()),
    ]
)


class Spill:
    """Keeps encoded bytes on disk until it is known which images stay: one file a bucket, in order of arrival."""

    def __init__(self, folder: Path) -> None:
        self.paths = {bucket: folder / f"spill-{bucket}" for bucket in BUCKETS}
        self.files: dict[str, BinaryIO] = {bucket: path.open("w+b") for bucket, path in self.paths.items()}

    def append(self, content: str, data: bytes) -> int:
        """Keep the bytes and return where in their bucket they start."""
        file = self.files[content[0]]
        start = file.seek(0, os.SEEK_END)
        file.write(data)
        return start

    def read(self, entry: Entry) -> bytes:
        file = self.files[entry.content[0]]
        file.seek(entry.start)
        return file.read(entry.length)

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, *error: object) -> None:
        for file in self.files.values():
            file.close()
        for path in self.paths.values():
            path.unlink(missing_ok=True)


def write_shards(folder: Path, kept: Sequence[Entry], names: Sequence[str], spill: Spill) -> Iterator[Entry]:
    """Write the shards, with one row group in memory at a time; yield each image as it is added."""
    numbers = {name: number for number, name in enumerate(names)}
    schema = FIELDS.with_metadata({"huggingface": json.dumps({"info": {"features": features(names)}})})
    ordered = sorted(kept, key=lambda entry: entry.content)
    for bucket in BUCKETS:
        entries = [entry for entry in ordered if entry.content[0] == bucket]
        if not entries:
            continue
        path = folder / f"images-{bucket}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False, write_statistics=False) as writer:
            for group in groups(entries):
                rows = []
                for entry in group:
                    rows.append(row(entry, numbers[entry.label], spill.read(entry)))
                    yield entry
                writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=len(rows))
        sync(path)


def features(names: Sequence[str]) -> dict[str, object]:
    """Return the columns as metadata of Hugging Face's `datasets`, which can load the folder as it is."""
    values = {"split": "string", "content": "string", "channels": "int64"}
    return {
        "image": {"_type": "Image"},
        "label": {"names": list(names), "_type": "ClassLabel"},
        **{column: {"dtype": dtype, "_type": "Value"} for column, dtype in values.items()},
    }


def groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yield the entries in groups of bounded bytes and rows, one of which is in memory at a time."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and (size + entry.length > GROUP_BYTES or len(group) == GROUP_ROWS):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.length
    yield group


def row(entry: Entry, label: int, data: bytes) -> dict[str, object]:
    return {
        "image": {"bytes": data, "path": entry.path},
        "label": label,
        "split": entry.split,
        "content": entry.content,
        "channels": entry.channels,
    }


def sync(path: Path) -> None:
    """Make sure the file survives a power cut before the folder takes its place."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


@dataclass(frozen=True, kw_only=True)
class Index:
    """Everything about the images of `data/raw` except their bytes, in the order of `read_images`."""

    names: tuple[str, ...]
    contents: tuple[str, ...]
    labels: Int64[np.ndarray, " n"]
    splits: tuple[str | None, ...]
    channels: int
    """1 if every image is grey, else 3."""


def is_own(file: Path, *, known: bool) -> bool:
    """Whether an ingest wrote the file, judged by its name and, unless the folder is `known`, by its contents."""
    if not OWN.fullmatch(file.name) or not file.is_file() or file.is_symlink():
        return False
    if known:
        return True
    try:
        if file.suffix == ".json":
            return bool(json.loads(file.read_bytes()).keys() >= {"source", "counts", "rules", "classes"})
        return bool(pq.read_schema(file).names == FIELDS.names)
    except (pa.ArrowException, OSError, ValueError, AttributeError):
        return False


def shards(folder: Path) -> list[Path]:
    """Return the shards in order; raises ValueError if there are none."""
    found = sorted(folder.glob("images-*.parquet"))
    if not found:
        raise ValueError(f"{folder} holds no images; run `python -m flows.ingest` (or `dvc pull`) first")
    return found


def read_index(folder: Path) -> Index:
    """Read the small columns of every shard."""
    columns = ["label", "split", "content", "channels"]
    tables = [pq.read_table(path, columns=columns, use_threads=False) for path in shards(folder)]
    stored = json.loads(tables[0].schema.metadata[b"huggingface"])
    table = pa.concat_tables(tables)
    return Index(
        names=tuple(stored["info"]["features"]["label"]["names"]),
        contents=tuple(table["content"].to_pylist()),
        labels=table["label"].to_numpy().astype(np.int64),
        splits=tuple(table["split"].to_pylist()),
        channels=int(max(table["channels"].to_pylist())),
    )


def read_images(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (source-relative path, encoded bytes) of every image, with a row group in memory at a time."""
    for path in shards(folder):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                for image in file.read_row_group(group, columns=["image"], use_threads=False)["image"]:
                    yield image["path"].as_py(), image["bytes"].as_py()
