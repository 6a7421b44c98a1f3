"""Where the copies of a search run: the interface; flows/runtime/workers.py has the process pools and clusters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

R = TypeVar("R")


@dataclass(frozen=True)
class WorkerDied:
    """In the place of a result: the process that computed it was killed (memory ran out), and killed again alone."""

    reason: str = "its worker died twice"


@runtime_checkable
class Parallel(Protocol):
    """Calls the function once for each tuple of arguments and returns the results in that order.

    What the function raises is raised. A call whose process is killed is made once more, so that a result never
    depends on it; killed again, it is a `WorkerDied`.
    """

    def __call__(self, function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R | WorkerDied]: ...


def sequential(function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R | WorkerDied]:
    """One after the other, here."""
    return [function(*each) for each in arguments]
