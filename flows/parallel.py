"""Where the copies of a search run: here, or in worker processes that stay for the next trunk."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import joblib

from components import params
from components.online import Parallel
from flows.observer import Observer

R = TypeVar("R")


def joblib_parallel(settings: params.Parallel, observe: Observer) -> Parallel:
    """The setting as a `Parallel`. Results do not depend on it: everything random is seeded by trunk and copy.

    Workers are reused from call to call and use one thread each; memory-mapped arrays reach them as maps of the same
    file, not as copies. Copies are shown as they finish.
    """

    def run(function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R]:
        with joblib.parallel_config(backend=settings.backend, n_jobs=settings.workers, **BACKENDS[settings.backend]):
            jobs = joblib.Parallel(batch_size=1, return_as="generator")
            results = jobs(joblib.delayed(function)(*each) for each in arguments)
            return list(observe.progress(results, len(arguments), "copies", inner=True))

    return run


BACKENDS: dict[str, dict[str, Any]] = {"sequential": {}, "loky": {"inner_max_num_threads": 1}}
"""What joblib is told beside the number of workers."""
