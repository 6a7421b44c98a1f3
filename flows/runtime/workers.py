"""Run the copies of a search here, in worker processes that stay for the next trunk, or on a cluster.

Everything goes through joblib, but not through its own backends for Ray and Dask: Ray's starts new processes in every
trunk and cannot report copies as they finish; Dask's waits forever if a worker is killed (joblib 1.6).
"""

import importlib
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from components.settings.parallel import Parallel as ParallelSettings
from components.training.parallel import Parallel, WorkerDied
from flows.runtime import processes
from flows.runtime.devices import be_deterministic
from flows.runtime.observer import Observer

R = TypeVar("R")
Call = Callable[[], Any]
Deaths = tuple[type[Exception], ...]
"""Exceptions that are raised if a worker was killed."""

LOG = logging.getLogger(__name__)


def joblib_parallel(settings: ParallelSettings, observe: Observer, what: str = "copies") -> Parallel:
    """Make the `Parallel` for the setting. Results do not depend on it: all randomness is seeded by trunk and copy.

    Workers are reused from call to call and use one thread each; memory-mapped splits reach them as maps of the same
    file, not as copies. Finished copies are shown as progress, under the name `what`. With one worker no process is
    started, whatever the backend. Raises `ValueError` if the backend is an extra that is not installed.
    """
    start = BACKENDS[settings.backend if settings.workers > 1 else "sequential"]
    return Copies(backend=start(settings.workers), workers=settings.workers, observe=observe, what=what)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A way to run copies."""

    joblib: Mapping[str, Any]
    """joblib's settings besides the number of workers."""
    deaths: Deaths = ()
    """Exceptions that joblib raises, for all copies, if a worker is killed."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """A `Parallel` that survives killed workers: copies that they left unfinished run again, one at a time."""

    backend: Backend
    workers: int
    observe: Observer
    what: str

    def __call__(self, function: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R | WorkerDied]:
        calls = dict(enumerate(arguments))
        results = self.finish(function, calls)
        again = [index for index in calls if index not in results]
        if again:
            LOG.warning("warning: a worker died; copies %s are run again, one at a time", again)
        for index in again:
            results |= self.finish(function, {index: calls[index]})
        return [results.get(index, WorkerDied()) for index in calls]

    def finish(self, function: Callable[..., R], calls: Mapping[int, tuple[Any, ...]]) -> dict[int, R]:
        """Return the results by index; if a worker dies, those that were there by then."""
        results: dict[int, R] = {}
        strict = torch.are_deterministic_algorithms_enabled()
        with suppress(*self.backend.deaths), joblib.parallel_config(n_jobs=self.workers, **self.backend.joblib):
            jobs = joblib.Parallel(batch_size=1, pre_dispatch="n_jobs", return_as="generator_unordered")
            ours = (strict, os.getpid())
            done = jobs(
                joblib.delayed(compute_in_worker)(index, function, each, *ours) for index, each in calls.items()
            )
            for index, result in self.observe.progress(done, len(calls), self.what, inner=True):
                results[index] = result
        return results


def compute_in_worker(
    index: int, function: Callable[..., R], arguments: Iterable[Any], strict: bool, employer: int
) -> tuple[int, R]:
    """Compute one copy in a worker, and return its index with the result.

    The worker is as strictly deterministic as its employer, which equal bytes on CUDA need, and ends with it.
    """
    processes.serve_only(employer)
    be_deterministic(strict)
    return index, function(*arguments)


# --- backends: each takes the number of workers


class Cluster(joblib.parallel.ParallelBackendBase):
    """A joblib backend for anything that turns a call into a future; a call whose worker is killed has no result."""

    supports_retrieve_callback = True

    def __init__(self, send: Callable[[Call], Future[Any]], deaths: Deaths) -> None:
        super().__init__()
        self.send, self.deaths = send, deaths

    def effective_n_jobs(self, n_jobs: int) -> int:
        return n_jobs

    def submit(self, func: Call, callback: Callable[[Future[Any]], None]) -> Future[Any]:
        future = self.send(func)
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        try:
            return out.result()
        except self.deaths:
            return []


def no_processes(workers: int) -> Backend:
    return Backend(joblib={"backend": "sequential"})


def loky(workers: int) -> Backend:
    """Run copies in processes on this machine."""
    return Backend(joblib={"backend": "loky", "inner_max_num_threads": 1}, deaths=(TerminatedWorkerError,))


def ray(workers: int) -> Backend:
    """Run copies on the cluster at RAY_ADDRESS, or on a private one here that ends with this process."""
    if "RAY_ADDRESS" not in os.environ:
        for name, value in PRIVATE_CLUSTER.items():
            os.environ.setdefault(name, value)
    module = import_extra("ray")
    if not module.is_initialized():
        start_ray(module, workers)
    task = module.remote(num_cpus=1, max_retries=0)(run_call)

    errors = module.exceptions
    deaths = (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError)
    return Backend(joblib={"backend": Cluster(lambda call: task.remote(call).future(), deaths)})


def run_call(call: Call) -> Any:
    return call()


PRIVATE_CLUSTER = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch, on any system, to bind 127.0.0.1 and not all interfaces
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment variables that Ray reads when it is imported: they make a cluster private and turn off usage reports."""


def start_ray(module: ModuleType, workers: int) -> None:
    """Join or start a cluster, and restore our own handler of SIGTERM, which Ray replaces."""
    where = {} if "RAY_ADDRESS" in os.environ else {"address": "local", "num_cpus": workers, "include_dashboard": False}
    answer = signal.getsignal(signal.SIGTERM)
    module.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    signal.signal(signal.SIGTERM, answer)


def dask(workers: int) -> Backend:
    """Run copies on the cluster at DASK_SCHEDULER_ADDRESS, or on one here that ends with this process."""
    module = import_extra("dask", "distributed")
    try:
        client = module.Client.current()
    except ValueError:
        client = dask_client(module, workers)
    executor = client.get_executor(pure=False, retries=0)
    return Backend(joblib={"backend": Cluster(executor.submit, (module.KilledWorker,))})


def dask_client(module: ModuleType, workers: int) -> Any:
    """Join the cluster at DASK_SCHEDULER_ADDRESS, or start one on 127.0.0.1 with its own certificate and no dashboard.

    The new cluster does not repeat a killed call; a joined scheduler repeats it as often as its own setting
    `distributed.scheduler.allowed-failures` says.
    """
    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        return module.Client(address)
    importlib.import_module("dask").config.set({"distributed.scheduler.allowed-failures": 0})
    local = module.LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, security=True,
        silence_logs=logging.CRITICAL,
    )  # fmt: skip
    return module.Client(local)


BACKENDS: dict[str, Callable[[int], Backend]] = {"sequential": no_processes, "loky": loky, "ray": ray, "dask": dask}


def import_extra(name: str, module: str | None = None) -> ModuleType:
    """Import an optional library. Raises `ValueError` if it is not installed."""
    try:
        return importlib.import_module(module or name)
    except ImportError:
        raise ValueError(
            f"parallel.backend is {name}, which is not installed; run `pip install '.[{name}]'`, or use loky"
        ) from None
