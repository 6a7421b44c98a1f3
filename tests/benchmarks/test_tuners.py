"""The tuners find what there is to find, within the budget and the seconds."""

from collections.abc import Callable, Iterator
from itertools import accumulate

import pytest

from components.architecture.space import Architecture, space_of
from components.data.store import Classes
from components.settings.space import SearchSpace
from tests.benchmarks.tuners import Found, Problem, by_optuna, by_ray_tune

SPACE = space_of(
    SearchSpace(stem=8, stem_stride=1, stages=((8, 2, 2), (16, 1, 2)), blocks=("res_k3", "mb_k3_e3", "mb_k3_e6")),
    Classes(names=("a", "b"), size=16, channels=1),
)
WORTH = {"res_k3": 0.3, "mb_k3_e3": 0.1, "mb_k3_e6": 0.2}


def fits(architecture: Architecture) -> bool:
    return architecture.count("res_k3") <= 2


def train(architecture: Architecture) -> Iterator[tuple[float, float]]:
    """Every network's rank shows after its first epoch of one CPU second."""
    right = sum(WORTH[block] for block in architecture)
    for epoch, spent in enumerate(accumulate([1.0] * 4)):
        yield right * (1 + epoch / 10), spent


@pytest.mark.parametrize("tuner", [by_optuna, by_ray_tune])
def test_a_tuner_finds_the_best_network_that_fits_and_keeps_to_the_seconds(tuner: Callable[[Problem], Found]) -> None:
    found = tuner(Problem(space=SPACE, fits=fits, train=train, epochs=4, seconds=16.0, seed=1))
    assert fits(found.architecture)
    assert sum(WORTH[block] for block in found.architecture) >= 0.5  # of 0.8
    assert 16.0 <= found.spent <= 20.0
    assert 4 <= found.trials <= 16
