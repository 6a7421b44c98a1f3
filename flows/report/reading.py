"""Result files as values, and numbers as text."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from components.architecture.space import blocks_of

Row = dict[str, str]
K = TypeVar("K")

MANY = 30
"""Classes beyond which a table of them is folded."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file; ValueError if it has none."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError("it has no rows")
    return rows


def grouped(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """Rows by key, keys in order of appearance."""
    groups: dict[K, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def number(text: str) -> float | None:
    """An empty cell is None."""
    return float(text) if text else None


def percent(share: float) -> str:
    return f"{share:.2%}"


def interval(scores: Mapping[str, float]) -> str:
    """Of the accuracy, as `evaluate` writes it."""
    return f"{percent(scores['accuracy_low'])} to {percent(scores['accuracy_high'])}"


def milliseconds(ms: float) -> str:
    """Three significant digits, none in powers of ten."""
    return f"{ms:.3g} ms" if ms >= 0.001 else f"{ms:.6f} ms"


def chain(architecture: str) -> str:
    """An architecture's text for people: `first → second`."""
    return " → ".join(blocks_of(architecture))


def folded(classes: int) -> str:
    """What to click to see a table of so many classes; empty where it is seen at once."""
    return f"All {classes} classes" if classes > MANY else ""


def counted(number: int, what: str, many: str = "") -> str:
    """`1 image`, `1,200 images`."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"
