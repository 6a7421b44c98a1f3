"""What a stage says while it works; null objects when nobody listens, so that stages have one path."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")


class Recorder(Protocol):
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


class Observer(Recorder, Protocol):
    """The tracker, and whoever waits for the stage."""

    def progress(self, items: Iterable[T], total: int, what: str, *, inner: bool = False, done: int = 0) -> Iterator[T]:
        """Pass `items` on while showing how many of `total` are done; `inner`: below the bar of the loop around it;
        `done`: so many, the first ones, were computed by an earlier run and are only read."""
        ...


class Silent:
    """An observer that keeps nothing: for tests and for stages run as functions."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        pass

    def tags(self, values: Mapping[str, str]) -> None:
        pass

    def file(self, path: Path) -> None:
        pass

    def progress(self, items: Iterable[T], total: int, what: str, *, inner: bool = False, done: int = 0) -> Iterator[T]:
        yield from items
