"""Does a search that starts from the networks of the last version choose better ones? Against the exhaustive truth.

Three versions follow each other, each with shared weights of its own, trained on its own draw of four fifths of the
training images (see `truth.py` for the space; the limit is a latency within which half of the networks are). `fresh`
searches anew every time, `warm` starts from the last pool of the version before; the first version is common to both.

    regret  points of accuracy between the best network that fits and the chosen one
"""

from collections.abc import Iterator, Sequence
from itertools import product
from statistics import mean

import joblib
import numpy as np
import torch
from jaxtyping import Int64

from components.architecture.search import Pool
from components.architecture.strategies import search
from tests.benchmarks.architecture_truth import COMMON, WORKERS, regret_of, weights_of, with_error
from tests.benchmarks.harness import Row, markdown
from tests.benchmarks.remembered import Remembered
from tests.benchmarks.truth import data_of, read_truth, settings_of

SEEDS = tuple(range(1, 11))
SPACE = "digits"
SHARE = 0.5
VERSIONS = (1, 2, 3)
STRATEGIES = ("pc_nas", "ridge")
STARTS = ("fresh", "warm")
DRAWN = 0.8


def rows() -> Iterator[Row]:
    run = joblib.Parallel(n_jobs=WORKERS, return_as="generator", batch_size=1)
    for versions in run(joblib.delayed(followed)(seed) for seed in SEEDS):
        yield from versions


def followed(seed: int) -> list[Row]:
    """All versions of one seed."""
    torch.set_num_threads(1)
    truth = read_truth(SPACE)
    (limit,) = truth.limits([SHARE])
    last: dict[tuple[str, str], Pool] = {}
    found = []
    for version in VERSIONS:
        own = 10 * seed + version
        remembered = Remembered(weights_of(SPACE, truth.space, own, drawn(own)))
        for strategy, start in product(STRATEGIES, STARTS):
            begin = last.get((strategy, start), ()) if start == "warm" else ()
            settings = settings_of(SPACE, latency_ms=limit, strategy=strategy, **COMMON)
            *_, end = search(truth.space, remembered.world(truth.table.predict), settings, own, begin)
            last[strategy, start] = tuple(candidate.architecture for candidate in end.pool)
            regret = regret_of(truth, limit, [end.pool[0].architecture])
            found.append(row(seed, version, strategy, start, regret, len(end.scores)))
    return found


def drawn(seed: int) -> Int64[np.ndarray, " n"]:
    """A version's own rows of the training images."""
    count = len(data_of(SPACE).train.labels)
    return np.sort(np.random.default_rng((seed, 1)).permutation(count)[: int(DRAWN * count)])


def row(seed: int, version: int, strategy: str, start: str, regret: float, evaluations: int) -> Row:
    return {
        "space": SPACE, "seed": seed, "version": version, "strategy": strategy, "start": start,
        "regret": round(regret, 3), "evaluations": evaluations,
    }  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Means over seeds with their standard errors; differences are paired by seed and version."""

    def of(strategy: str, start: str, what: str = "regret", versions: Sequence[int] = VERSIONS) -> list[float]:
        return [
            float(str(row[what]))
            for row in rows
            if (row["strategy"], row["start"]) == (strategy, start) and row["version"] in versions
        ]

    later = VERSIONS[1:]
    lines = []
    for strategy, start in product(STRATEGIES, STARTS):
        gained = np.subtract(of(strategy, start, versions=later), of(strategy, "fresh", versions=later))
        by_seed = gained.reshape(-1, len(later)).mean(axis=1).tolist()
        lines.append([
            strategy,
            start,
            *(with_error(of(strategy, start, versions=[version])) for version in VERSIONS),
            with_error(by_seed) if start == "warm" else "",
            f"{mean(of(strategy, start, 'evaluations')):.0f}",
        ])  # fmt: skip
    header = ["strategy", "start", *(f"regret, version {version}" for version in VERSIONS)]
    return markdown([*header, "versions 2 and 3, warm minus fresh", "evaluations"], lines)
