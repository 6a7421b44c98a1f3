"""Stage `prepare`: data/raw and data/split.csv -> train, val and test in memory-mapped arrays, and their records."""

from dataclasses import dataclass

from components.data.preparation import prepare
from components.data.store import SPLITS, write_classes, write_statistics
from components.settings.data import Data
from flows.checkout import paths
from flows.runtime.observer import Observer

FOLDERS = dict(zip(SPLITS, (paths.TRAIN, paths.VAL, paths.TEST), strict=True))


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What the stage reads of params.yaml; dvc.yaml names the same."""

    data: Data


def run(params: Reads, observe: Observer) -> None:
    classes, statistics = prepare(paths.RAW, paths.SPLIT, params.data, FOLDERS, observe.progress)
    write_classes(paths.CLASSES, classes)
    write_statistics(paths.STATISTICS, statistics)
    observe.metrics({f"prepare/images/{split}": sum(counts.values()) for split, counts in statistics.counts.items()})
    for path in (paths.CLASSES, paths.STATISTICS, paths.VALIDATION):
        observe.file(path)
