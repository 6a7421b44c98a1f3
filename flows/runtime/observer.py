"""Define how a stage reports while it works, with an observer that ignores everything for when nobody listens."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")


class Recorder(Protocol):
    """Records a stage's results. Its failure never fails the stage and never loses a record (files hold them)."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record the named numbers of one step, in one call for each trunk, pool update or epoch."""
        ...

    def tags(self, values: Mapping[str, str]) -> None:
        """Record words about the run."""
        ...

    def file(self, path: Path) -> None:
        """Add a written file to the run's artifacts."""
        ...


class Observer(Recorder, Protocol):
    """A recorder that also shows the stage's progress to whoever waits for it."""

    def progress(self, items: Iterable[T], total: int, what: str, *, inner: bool = False, done: int = 0) -> Iterator[T]:
        """Yield `items` while showing how many of `total` are done.

        `inner` shows the loop below the one around it. The first `done` items were computed by an earlier run and are
        only read."""
        ...


class Silent:
    """An observer that keeps nothing, for tests and for stages that are called as functions."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        pass

    def tags(self, values: Mapping[str, str]) -> None:
        pass

    def file(self, path: Path) -> None:
        pass

    def progress(self, items: Iterable[T], total: int, what: str, *, inner: bool = False, done: int = 0) -> Iterator[T]:
        yield from items
