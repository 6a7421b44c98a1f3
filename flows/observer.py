"""What a stage shows while it works; a null object when nobody looks, so that stages have one path."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Observer(Protocol):
    """The tracker's side of a stage. Its failure never fails a stage and never loses a record (files hold them)."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Named numbers of one step: one call a trunk, pool update or epoch."""
        ...

    def tags(self, values: Mapping[str, str]) -> None:
        """Words about the run."""
        ...

    def file(self, path: Path) -> None:
        """A written file that belongs in the run's artifacts."""
        ...

    def progress(self, items: Iterable[T], total: int, what: str, *, inner: bool = False) -> Iterator[T]:
        """Pass `items` on while showing how many of `total` are done; `inner`: below the bar of the loop around it."""
        ...


def progress_bar(items: Iterable[T], total: int, what: str, *, inner: bool = False) -> Iterator[T]:
    """Bars on a terminal; elsewhere a line now and then, and none for inner loops."""
    terminal = sys.stderr.isatty()
    yield from tqdm(
        items,
        total=total,
        desc=what,
        mininterval=0.5 if terminal else 10,
        dynamic_ncols=True,
        leave=not inner,
        position=int(inner),
        disable=inner and not terminal,
    )


class Silent:
    """An observer that keeps nothing: for tests and for stages run as functions."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        pass

    def tags(self, values: Mapping[str, str]) -> None:
        pass

    def file(self, path: Path) -> None:
        pass

    def progress(self, items: Iterable[T], total: int, what: str, *, inner: bool = False) -> Iterator[T]:
        yield from items
