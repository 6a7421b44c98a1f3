"""Reading and writing the small files that stages hand on: whole or not at all, the same bytes every time."""

import csv
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOTHING: Mapping[str, Any] = {}
"""What a file holds that a stage depends on, and that says nothing."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(places: Iterable[Path]) -> None:
    """Remove what a kill left of files that were being written to these places: what `replacing` calls them."""
    for place in places:
        ours = re.compile(rf"\.{re.escape(place.name)}\.[a-z0-9_]{{8}}")
        for temporary in place.parent.glob(f".{place.name}.*"):
            if ours.fullmatch(temporary.name):
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Keys sorted, floats exact, one trailing newline."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """One line a row; the first row's keys are the header; floats by their shortest exact form."""
    assert rows, f"no rows for {path}"
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def digest(file: Path) -> str:
    """sha256 of a file."""
    return sha256(file.read_bytes())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5_of(content: bytes) -> str:
    """DVC's hash of a file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
