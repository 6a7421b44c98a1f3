"""Stage `prepare`: turn data/raw and data/split.csv into memory-mapped arrays of train, val and test."""

from dataclasses import dataclass

from components.data.preparation import prepare
from components.data.store import SPLITS, write_classes, write_statistics
from components.settings.data import Data
from flows.checkout import paths
from flows.runtime.observer import Observer

FOLDERS = dict(zip(SPLITS, (paths.TRAIN, paths.VAL, paths.TEST), strict=True))


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The settings that the stage reads; dvc.yaml lists the same."""

    data: Data


def run(params: Reads, observe: Observer) -> None:
    classes, statistics = prepare(paths.RAW, paths.SPLIT, params.data, FOLDERS, observe.progress)
    write_classes(paths.CLASSES, classes)
    write_statistics(paths.STATISTICS, statistics)
    observe.metrics({f"prepare/images/{split}": sum(counts.values()) for split, counts in statistics.counts.items()})
    for path in (paths.CLASSES, paths.STATISTICS, paths.VALIDATION):
        observe.file(path)
