"""Where copies run changes nothing: records and weights are the same bytes here and in worker processes."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.architecture.network import build_network
from components.architecture.space import default_architecture, space_of
from components.augmentation.search import search_augmentation
from components.data.store import Classes, Split, open_split, write_split
from components.online import Parallel, sequential
from components.params import Architecture, Augmentation, Online, Recipe
from components.params import Parallel as ParallelSettings
from flows.observer import Silent
from flows.parallel import joblib_parallel

LOKY = ParallelSettings(backend="loky", workers=2)
LOKY_ALONE = ParallelSettings(backend="loky", workers=1)
SETTINGS = Augmentation(online=Online(trunks=3, copies=4, images=64))
STAGES = ((8, 1, 1), (16, 1, 2))
SPACE = space_of(
    Architecture(
        latency_ms=1.0, stem=8, stem_stride=1, stages=STAGES, blocks=("mb_k3_e3",), warmup_epochs=0.0, stage_epochs=0.0
    ),
    Classes(names=("a", "b", "c"), size=12, channels=1),
)


def splits(folder: Path) -> tuple[Split, Split]:
    rng = np.random.default_rng(0)
    for name, count in (("train", 128), ("val", 60)):
        write_split(folder / name, rng.integers(0, 256, (count, 12, 12, 1), dtype=np.uint8), rng.integers(0, 3, count))
    return open_split(folder / "train"), open_split(folder / "val")


def digest(folder: Path, parallel: Parallel) -> str:
    """Of all records and of the last state."""
    make = partial(build_network, SPACE, default_architecture(SPACE), (0.5,), (0.25,), seed=3)
    trunks = list(
        search_augmentation(
            make, open_split(folder / "train"), open_split(folder / "val"), settings=SETTINGS,
            recipe=Recipe(batch_size=16), seed=5, parallel=parallel,
        )
    )  # fmt: skip
    total = hashlib.sha256(repr(trunks).encode())
    for trunk in trunks:
        total.update(trunk.theta.tobytes())
    for key, value in sorted(trunks[-1].state.items()):
        total.update(key.encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    return joblib_parallel(LOKY, Silent())(function, [arguments, arguments])[0]


def digest_there(folder: Path) -> str:
    return digest(folder, sequential)


def about_worker(split: Split) -> tuple[int, int, str]:
    return os.getpid(), torch.get_num_threads(), str(getattr(split.images, "filename", "copied"))


def test_sequential_and_loky_give_the_same_bytes(tmp_path: Path) -> None:
    splits(tmp_path)
    assert digest(tmp_path, joblib_parallel(LOKY, Silent())) == digest(tmp_path, sequential)


def test_a_whole_search_in_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    splits(tmp_path)
    assert elsewhere(digest_there, tmp_path) == digest(tmp_path, sequential)


def test_workers_are_other_processes_with_one_thread_and_the_same_file(tmp_path: Path) -> None:
    train, _ = splits(tmp_path)
    process, threads, file = elsewhere(about_worker, train)
    assert process != os.getpid()
    assert threads == 1
    assert Path(file) == tmp_path / "train" / "images.npy"


def test_workers_stay_for_the_next_call(tmp_path: Path) -> None:
    def processes() -> set[int]:
        return set(joblib_parallel(LOKY, Silent())(os.getpid, [()] * 8))

    assert len(processes() | processes()) <= LOKY.workers


def test_results_keep_the_order_of_the_arguments() -> None:
    numbers: Sequence[tuple[int]] = [(n,) for n in range(20)]
    assert joblib_parallel(LOKY, Silent())(abs, numbers) == list(range(20))


def test_one_worker_needs_no_process() -> None:
    here = [os.getpid()] * 3
    for settings in (LOKY_ALONE, ParallelSettings(backend="sequential", workers=4)):
        assert joblib_parallel(settings, Silent())(os.getpid, [()] * 3) == here
