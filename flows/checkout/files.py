"""Read and write small files: each appears whole or not at all, and the same content gives the same bytes."""

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
"""The content of a file that a stage depends on but that holds no value."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` if the block succeeds, and is deleted if it raises."""
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
    """Delete the temporary files of `replacing` that a killed process left beside these paths."""
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
    """Return the value as JSON with sorted keys, exact floats and one trailing newline."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write one line per row. The first row's keys are the header; floats have their shortest exact form.

    Without rows it is one empty line: a search that did not run has none, and DVC warns of a file without bytes.
    """
    text = io.StringIO()
    if not rows:
        write_text(path, "\n")
        return
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def digest(file: Path) -> str:
    """Return the sha256 of a file."""
    return sha256(file.read_bytes())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5_of(content: bytes) -> str:
    """Return the md5, which is the hash that DVC uses for files."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
