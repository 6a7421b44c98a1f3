"""What a stage shows while it works; a null object when nobody looks, so that stages have one path."""

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

    def file(self, path: Path) -> None:
        """A written file that belongs in the run's artifacts."""
        ...

    def progress(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """Pass `items` on while showing how many of `total` are done."""
        ...


def progress_bar(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """A bar on a terminal, at most a line every five seconds elsewhere."""
    yield from tqdm(items, total=total, desc=what, mininterval=0.5, dynamic_ncols=True, leave=True)


class Silent:
    """An observer that keeps nothing: for tests and for stages run as functions."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        pass

    def file(self, path: Path) -> None:
        pass

    def progress(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        yield from items
