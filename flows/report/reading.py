"""Read result files, and format numbers as text."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from components.architecture.space import blocks_of

Row = dict[str, str]
K = TypeVar("K")

MANY = 30
"""Largest number of classes for which a table of them is open; larger ones are folded."""


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a CSV file. Raises ValueError if it has none."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError("it has no rows")
    return rows


def group_rows(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """Group rows by key, with the keys in order of appearance."""
    groups: dict[K, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def number(text: str) -> float | None:
    """Return the number in a cell, or None if the cell is empty."""
    return float(text) if text else None


def percent(share: float) -> str:
    return f"{share:.2%}"


def interval(scores: Mapping[str, float]) -> str:
    """Format the interval of the accuracy in the scores that `evaluate` writes."""
    return f"{percent(scores['accuracy_low'])} to {percent(scores['accuracy_high'])}"


def milliseconds(ms: float) -> str:
    """Format milliseconds with three significant digits, never in powers of ten."""
    return f"{ms:.3g} ms" if ms >= 0.001 else f"{ms:.6f} ms"


def chain(architecture: str) -> str:
    """Format an architecture for people: `first → second`."""
    return " → ".join(blocks_of(architecture))


def fold_text(classes: int) -> str:
    """Return the text to click to open a table of so many classes, or an empty text if it is open."""
    return f"All {classes} classes" if classes > MANY else ""


def quantity(number: int, what: str, many: str = "") -> str:
    """Format a number with its noun: `1 image`, `1,200 images`."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"
