"""The interface that runs the copies of a search; flows/runtime/workers.py has the process pools and clusters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

R = TypeVar("R")


@dataclass(frozen=True)
class WorkerDied:
    """Stands in for a result whose process was killed (for lack of memory), and killed again when it ran alone."""

    reason: str = "its worker died twice"


@runtime_checkable
class Parallel(Protocol):
    """Calls the function once for each tuple of arguments and returns the results in that order.

    It raises what the function raises. A call whose process is killed is made once more, so that a kill does not
    change a result; if it is killed again, the result is a `WorkerDied`.
    """

    def __call__(self, function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R | WorkerDied]: ...


def sequential(function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R | WorkerDied]:
    """Make the calls one after the other in this process."""
    return [function(*each) for each in arguments]
