"""Where the copies of a search run: here, or in worker processes that stay for the next trunk."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import joblib

from components import params
from components.online import Parallel, sequential

R = TypeVar("R")


def joblib_parallel(settings: params.Parallel) -> Parallel:
    """The setting as a `Parallel`. Results do not depend on it: everything random is seeded by trunk and copy.

    Workers are reused from call to call and use one thread each; memory-mapped arrays reach them as maps of the same
    file, not as copies.
    """
    if settings.backend == "sequential" or settings.workers == 1:
        return sequential

    def loky(function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R]:
        with joblib.parallel_config(backend="loky", n_jobs=settings.workers, inner_max_num_threads=1):
            results: list[R] = joblib.Parallel(batch_size=1)(joblib.delayed(function)(*each) for each in arguments)
        return results

    return loky
