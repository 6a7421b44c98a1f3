"""The interface by which a long computation reports its progress to its caller."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Progress = Callable[[Iterable[Any], int, str], Iterator[Any]]
"""(items, their number, a word for them) -> the same items, passed on one by one while they are counted."""


def unwatched(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """Pass the items on without reporting progress."""
    yield from items
