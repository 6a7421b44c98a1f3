"""A search that was interrupted goes on where it was, and nobody can tell from what it leaves behind."""

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from components.architecture.space import default_architecture, format_architecture, space_of
from components.augmentation.distribution import first_distribution, policy_of
from components.data.store import Classes, Statistics, write_classes, write_split, write_statistics
from components.online.controllers import CONTROLLERS
from components.online.engine import Trunk, race_copies, search
from components.settings.params import Params
from components.training.loop import Diverged, State
from flows.checkout import files, paths
from flows.checkout.settings import load_params
from flows.resume.online_search import keep_nothing, resume_search
from flows.stages import augmentation, loss
from tests.clones import ROOT
from tests.components.test_online import KINDS, Choice, Climb, height, settings, start
from tests.shapes import without_checks  # noqa: F401 - a fixture
from tests.stages import run as run_stage

pytestmark = pytest.mark.usefixtures("without_checks")

T = TypeVar("T")


class Interrupted(BaseException):
    """As Ctrl-C would."""


# --- the toy world


def unlucky(state: State, sample: int, trunk: int, copy: int) -> State:
    """Copy 1 is lost in every trunk."""
    if copy == 1:
        raise Diverged("gone")
    return Climb()(state, sample, trunk, copy)


def whole(
    folder: Path, controller: str = "reinforce", keep: Callable[[Trunk[int]], State] = keep_nothing
) -> Iterator[Any]:
    online = settings(trunks=8, controller=controller)
    play = partial(race_copies, train=unlucky, score=height)
    toy = partial(search, Choice(theta=np.zeros(KINDS)), start(), play=play, score=height, settings=online, seed=2)
    return resume_search(toy, folder, online, keep)


def shown(trunks: Iterable[Trunk[int]]) -> list[str]:
    """Every digit of every record, nan included."""
    return [f"{trunk!r} {trunk.theta.tolist()}" for trunk in trunks]


@pytest.mark.parametrize("controller", sorted(set(CONTROLLERS) - {"matching"}))
@pytest.mark.parametrize("done", [1, 2, 5, 8])
def test_records_of_an_interrupted_search_are_those_of_an_uninterrupted_one(
    tmp_path: Path, controller: str, done: int
) -> None:
    expected = list(whole(tmp_path / "a", controller))
    list(islice(whole(tmp_path / "b", controller), done))
    again = list(whole(tmp_path / "b", controller))
    assert shown(again) == shown(expected)
    assert math.isnan(again[0].rewards[1])
    assert height(again[-1].state) == height(expected[-1].state)


def test_a_search_may_be_interrupted_in_every_trunk(tmp_path: Path) -> None:
    for done in range(1, 9):
        list(islice(whole(tmp_path / "b"), done))
    assert shown(whole(tmp_path / "b")) == shown(whole(tmp_path / "a"))


def test_only_the_last_trunks_state_is_on_disk_and_what_the_stage_keeps(tmp_path: Path) -> None:
    def even(trunk: Trunk[int]) -> State:
        return {"model.w": trunk.state["model.w"]} if trunk.index % 2 == 0 else {}

    first = list(islice(whole(tmp_path, keep=even), 5))
    names = {file.name for file in tmp_path.iterdir()}
    assert {name for name in names if "state" in name} == {"000004.state.safetensors"}
    assert {name for name in names if "kept" in name} == {f"00000{k}.kept.safetensors" for k in (0, 2, 4)}
    again = list(islice(whole(tmp_path, keep=even), 5))
    assert [trunk.state.keys() for trunk in again] == [{"model.w"}, set(), {"model.w"}, set(), {"model.w"}]
    assert again[2].state == first[2].state


def test_what_was_being_written_when_the_process_was_killed_is_not_read(tmp_path: Path) -> None:
    list(islice(whole(tmp_path), 3))
    (tmp_path / ".000003.json.abc").write_text("{")
    (tmp_path / "000003.state.safetensors").write_bytes(b"half")
    assert shown(whole(tmp_path)) == shown(whole(tmp_path / "other"))


# --- the stages


class Recorder:
    """An observer that remembers, and stops the stage in its own way after the metrics of a trunk."""

    def __init__(self, stop: Callable[[], None] = lambda: None, after: int | None = None) -> None:
        self.stop, self.after = stop, after
        self.seen: list[tuple[int, str]] = []
        self.said: dict[str, str] = {}

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.seen.append((step, repr(values)))
        if step == self.after:
            self.stop()

    def tags(self, values: Mapping[str, str]) -> None:
        self.said |= values

    def file(self, path: Path) -> None:
        pass

    def progress(self, items: Iterable[T], total: int, what: str, *, inner: bool = False, done: int = 0) -> Iterator[T]:
        yield from items


def interrupt() -> None:
    raise Interrupted


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


STAGES = {"augmentation": (augmentation, paths.AUGMENTATION), "loss": (loss, paths.LOSS)}
CHECKPOINT = Path("checkpoint")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    return begin_with_noise()


def begin_with_noise() -> Params:
    """Write what the stages read into this folder: noise for images, the default network, the first policy."""
    params = load_params(ROOT / "tests" / "tiny.yaml")
    online = replace(params.augmentation.online, trunks=4, images=64)
    params = replace(
        params,
        augmentation=replace(params.augmentation, online=online),
        loss=replace(params.loss, online=replace(params.loss.online, trunks=11, images=32)),
    )
    classes = Classes(names=("a", "b", "c"), size=8, channels=1)
    write_classes(paths.CLASSES, classes)
    write_statistics(paths.STATISTICS, Statistics(mean=(0.5,), std=(0.25,), counts={"train": {"all": 1000}}))
    rng = np.random.default_rng(0)
    for folder, count in ((paths.TRAIN, 96), (paths.VAL, 40)):
        write_split(folder, rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), rng.integers(0, 3, count))
    network = format_architecture(default_architecture(space_of(params.architecture, classes)))
    files.write_json(paths.FOUND_ARCHITECTURE, {"architecture": network})
    policy = policy_of(first_distribution(params.augmentation)).to_json()
    files.write_json(paths.FOUND_AUGMENTATION, policy)
    return params


def outputs(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize(("word", "after"), [("augmentation", 0), ("augmentation", 3), ("loss", 0), ("loss", 6)])
def test_a_stage_that_was_interrupted_leaves_the_same_bytes_and_metrics(params: Params, word: str, after: int) -> None:
    stage, folder = STAGES[word]
    calm, stopped, again = Recorder(), Recorder(interrupt, after), Recorder()
    run_stage(stage, params, calm, Path("calm"))
    expected = outputs(folder)
    with pytest.raises(Interrupted):
        run_stage(stage, params, stopped, CHECKPOINT)
    run_stage(stage, params, again, CHECKPOINT)
    assert outputs(folder) == expected
    assert len(expected) >= 3
    assert again.seen == calm.seen
    assert stopped.seen == calm.seen[: after + 1]


def killed_run(params: Params) -> None:
    torch.set_num_threads(1)
    run_stage(loss, params, Recorder(kill, 4), CHECKPOINT)


def test_a_stage_that_was_killed_goes_on_at_the_trunk_where_it_was(params: Params) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed_run, args=(params,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    finished = {file.name: file.stat().st_mtime_ns for file in CHECKPOINT.glob("*.json")}
    assert sorted(finished) == [f"00000{trunk}.json" for trunk in range(5)]
    run_stage(loss, params, Recorder(), CHECKPOINT)
    resumed_bytes = outputs(paths.LOSS)
    assert {name: (CHECKPOINT / name).stat().st_mtime_ns for name in finished} == finished
    run_stage(loss, params, Recorder(), Path("calm"))
    assert outputs(paths.LOSS) == resumed_bytes


def test_a_checkpoint_with_a_gap_is_refused_by_name(tmp_path: Path) -> None:
    for _ in zip(range(4), whole(tmp_path), strict=False):
        pass
    (tmp_path / "000001.json").unlink()
    with pytest.raises(ValueError, match="delete that folder"):
        next(whole(tmp_path))
