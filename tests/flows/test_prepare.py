"""Claims about the stage `prepare`: the files later stages read, at their places, the same every time."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from components.data.store import open_split, read_classes, read_statistics
from components.settings.data import Data
from components.settings.params import Params
from flows import ingest
from flows.checkout import paths
from flows.checkout.settings import load_params
from flows.settings import PRESETS
from flows.stages import prepare
from tests.flows.test_ingest import Versions
from tests.stages import run as run_stage

T = TypeVar("T")


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.files: list[Path] = []
        self.seen: list[tuple[str, int, int]] = []

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.values |= values

    def file(self, path: Path) -> None:
        assert path.exists()
        self.files.append(path)

    def progress(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        done = 0
        for item in items:
            yield item
            done += 1
        self.seen.append((what, done, total))


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The digits, ingested."""
    monkeypatch.chdir(tmp_path)
    Versions(monkeypatch)
    params = replace(load_params(PRESETS / "digits.yaml"), data=Data(source="digits", size=16, val=0.2, test=0.2))
    ingest.ingest(params)
    return params


def test_prepare_writes_the_splits_the_classes_and_the_statistics(digits: Params) -> None:
    observe = Recorder()
    run_stage(prepare, digits, observe)
    splits = [open_split(folder) for folder in (paths.TRAIN, paths.VAL, paths.TEST)]
    assert sum(len(split.labels) for split in splits) == 1797
    assert all(split.images.shape[1:] == (16, 16, 1) for split in splits)
    assert read_classes(paths.CLASSES).names == tuple("0123456789")
    counts = read_statistics(paths.STATISTICS).counts
    assert all(counts[split][name] > 0 for split in ("train", "val", "test") for name in "0123456789")


def test_prepare_shows_its_progress_its_counts_and_its_files(digits: Params) -> None:
    observe = Recorder()
    run_stage(prepare, digits, observe)
    assert observe.seen == [("prepare", 1797, 1797)]
    assert sum(observe.values.values()) == 1797
    assert set(observe.files) == {paths.CLASSES, paths.STATISTICS, paths.VALIDATION}


def test_prepare_gives_the_same_bytes_again(digits: Params) -> None:
    written = []
    for _ in range(2):
        run_stage(prepare, digits, Recorder())
        written.append({path: path.read_bytes() for path in Path("data/prepared").rglob("*") if path.is_file()})
    assert written[0] == written[1]
    assert len(written[0]) == 11
