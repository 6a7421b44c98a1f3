"""The digits preset, from images to a registered model."""

from collections.abc import Iterator

from tests.benchmarks.harness import Row
from tests.benchmarks.line import line_rows
from tests.benchmarks.line import line_table as table

__all__ = ["SEEDS", "rows", "table"]
SEEDS = (1,)


def rows() -> Iterator[Row]:
    yield from line_rows("digits", SEEDS)
