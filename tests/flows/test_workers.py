"""Where copies run changes nothing: records and weights are the same bytes here, in processes and on a cluster."""

import hashlib
import ipaddress
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from components.architecture.network import build_network
from components.architecture.space import default_architecture, space_of
from components.augmentation.search import search_augmentation
from components.data.store import Classes, Split, open_split, write_split
from components.loss.search import LossWorld
from components.settings.architecture import Architecture
from components.settings.augmentation import Augmentation
from components.settings.loss import Loss
from components.settings.online import Online
from components.settings.parallel import Parallel as ParallelSettings
from components.settings.recipe import Recipe
from components.training.devices import Make
from components.training.parallel import Parallel, WorkerDied, sequential
from flows.runtime.observer import Silent
from flows.runtime.workers import joblib_parallel

BACKENDS = ("loky", "ray", "dask")
SETTINGS = (
    Augmentation(online=Online(trunks=2, copies=8, images=32, warmup_trunks=0)),
    Augmentation(
        online=Online(
            trunks=2, images=32, warmup_trunks=0, reward="alignment", probe_images=16, controller="matching",
            controller_lr=1.0,
        )
    ),
)  # fmt: skip
"""A search by copies and one by gradients."""
STAGES = ((8, 1, 1), (16, 1, 2))
SPACE = space_of(
    Architecture(stem=8, stem_stride=1, stages=STAGES, blocks=("mb_k3_e3",), warmup_epochs=0.0, stage_epochs=0.0),
    Classes(names=("a", "b", "c"), size=12, channels=1),
)


MAKE = partial(build_network, SPACE, default_architecture(SPACE), (0.5,), (0.25,), seed=3)


def run_with(backend: Any, workers: int = 2) -> Parallel:
    return joblib_parallel(ParallelSettings(backend=backend, workers=workers), Silent())


@pytest.fixture(scope="module", params=BACKENDS)
def parallel(request: pytest.FixtureRequest) -> Iterator[Parallel]:
    """Two workers; the cluster that `joblib_parallel` started for them ends with the last test that needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's and Dask's own
        yield run_with(request.param)
        END[request.param]()


def end_ray() -> None:
    sys.modules["ray"].shutdown()


def end_dask() -> None:
    client = sys.modules["distributed"].Client.current()
    cluster = client.cluster
    client.close()
    cluster.close()


END: dict[str, Callable[[], None]] = {"loky": lambda: None, "ray": end_ray, "dask": end_dask}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, count in (("train", 128), ("val", 60)):
        write_split(folder / name, rng.integers(0, 256, (count, 12, 12, 1), dtype=np.uint8), rng.integers(0, 3, count))
    return folder


@pytest.fixture(scope="module")
def expected(data: Path) -> str:
    return digest(data, sequential)


def digest(folder: Path, parallel: Parallel, make: Make = MAKE) -> str:
    """Of all records and of the last states, of both searches."""
    total = hashlib.sha256()
    for settings in SETTINGS:
        trunks = list(
            search_augmentation(
                make, open_split(folder / "train"), open_split(folder / "val"), settings=settings,
                recipe=Recipe(batch_size=16), seed=5, parallel=parallel,
            )
        )  # fmt: skip
        total.update(repr(trunks).encode())
        for trunk in trunks:
            total.update(trunk.theta.tobytes())
        for key, value in sorted(trunks[-1].state.items()):
            total.update(key.encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()


def digest_there(folder: Path) -> str:
    return digest(folder, sequential)


def about_worker(split: Split) -> tuple[int, int, str]:
    return os.getpid(), torch.get_num_threads(), str(getattr(split.images, "filename", "copied"))


def test_results_are_the_same_bytes_as_without_workers_in_the_order_of_the_arguments(
    parallel: Parallel, data: Path, expected: str
) -> None:
    assert digest(data, parallel) == expected
    assert parallel(abs, [(n,) for n in range(20)]) == list(range(20))


def test_workers_are_other_processes_with_one_thread_and_the_same_file(parallel: Parallel, data: Path) -> None:
    for process, threads, file in parallel(about_worker, [(open_split(data / "train"),)] * 4):
        assert process != os.getpid()
        assert threads == 1
        assert Path(file) == data / "train" / "images.npy"


def test_workers_are_as_deterministic_as_the_process_that_asks_and_on_the_cpu_that_changes_no_byte(
    parallel: Parallel, data: Path, expected: str
) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for strict in (False, True):
            torch.use_deterministic_algorithms(strict)
            assert parallel(torch.are_deterministic_algorithms_enabled, [()] * 4) == [strict] * 4
        assert digest(data, parallel) == expected
    finally:
        torch.use_deterministic_algorithms(before)


def test_nobody_else_reaches_a_cluster_of_our_own(parallel: Parallel) -> None:
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    address = ipaddress.ip_address(connection.laddr.ip)
                    assert (getattr(address, "ipv4_mapped", None) or address).is_loopback, process.name()


def fragile(copy: int, folder: Path) -> int:
    """Copy 1 kills its process the first time, copy 2 every time."""
    if copy == 2 or (copy == 1 and not (folder / "died").exists()):
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return copy


def test_a_killed_copy_is_run_again_and_one_that_is_killed_again_is_given_up(
    parallel: Parallel, tmp_path: Path
) -> None:
    assert parallel(fragile, [(copy, tmp_path) for copy in range(3)]) == [0, 1, WorkerDied()]
    assert parallel(abs, [(-1,), (-2,)]) == [1, 2]


def refuse(copy: int) -> int:
    raise KeyError(copy)


def test_what_a_copy_raises_is_raised(parallel: Parallel) -> None:
    with pytest.raises(KeyError):
        parallel(refuse, [(0,), (1,)])


@dataclass(frozen=True)
class MakeAfterDeath:
    """Builds the network, but kills the first worker that asks for it."""

    mark: Path
    here: int

    def __call__(self) -> torch.nn.Module:
        if os.getpid() != self.here and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return MAKE()


def test_a_search_whose_worker_is_killed_gives_the_same_bytes(data: Path, expected: str, tmp_path: Path) -> None:
    deadly = MakeAfterDeath(tmp_path / "died", os.getpid())
    assert digest(data, run_with("loky"), deadly) == expected
    assert deadly.mark.exists()


def test_a_whole_search_in_another_process_gives_the_same_bytes(data: Path, expected: str) -> None:
    assert run_with("loky")(digest_there, [(data,)] * 2) == [expected] * 2


def test_three_workers_give_the_same_bytes_as_none(data: Path, expected: str) -> None:
    """Eight copies are not dealt out evenly to them."""
    assert digest(data, run_with("loky", 3)) == expected


@pytest.mark.parametrize(("reward", "copies"), [("leave_one_out", 4), ("alignment", 4), ("linear_probe", 20)])
def test_a_loss_search_gives_the_same_bytes_in_workers(data: Path, reward: Any, copies: int) -> None:
    online = Online(trunks=2, copies=copies, images=32, warmup_trunks=0, reward=reward, controller="bandit")
    world = LossWorld(
        make=MAKE, train=open_split(data / "train"), val=open_split(data / "val"),
        settings=Loss(online=online), recipe=Recipe(batch_size=16), seed=5,
    )  # fmt: skip
    here, there = (list(world.search(parallel)) for parallel in (sequential, run_with("loky")))
    assert repr(here) == repr(there)
    assert here[-1].theta.tobytes() == there[-1].theta.tobytes()
    assert all(torch.equal(here[-1].state[key], there[-1].state[key]) for key in here[-1].state)


def test_workers_stay_for_the_next_call() -> None:
    def processes() -> set[Any]:
        return set(run_with("loky")(os.getpid, [()] * 8))

    assert len(processes() | processes()) <= 2


@pytest.mark.parametrize("backend", ["sequential", *BACKENDS])
def test_one_worker_needs_no_process(backend: str) -> None:
    assert run_with(backend, 1)(os.getpid, [()] * 3) == [os.getpid()] * 3


@pytest.mark.parametrize(("backend", "module"), [("ray", "ray"), ("dask", "distributed")])
def test_a_missing_extra_is_one_sentence_that_says_what_to_install(
    backend: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ValueError, match=rf"parallel\.backend is {backend}, .* run `pip install '\.\[{backend}\]'`, or"
    ):
        run_with(backend)
