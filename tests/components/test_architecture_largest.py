"""The largest network within the limits is what brute force finds."""

import itertools
from typing import Any

import numpy as np
import pytest

from components.architecture.budget import budget_of
from components.architecture.costs import costs_of
from components.architecture.largest import BEAM, largest, largest_within
from components.architecture.search import World
from components.architecture.space import Architecture, Space, candidates
from components.architecture.strategies import search
from tests.components.architecture_table import settings, space

BLOCKS = ("mb_k3_e2", "mb_k5_e3", "res_k3", "identity")
STAGES = ((8, 2, 1), (16, 3, 2))


def flops(of: Space, architecture: Architecture) -> int:
    return costs_of(of, architecture).flops


def times(of: Space, seed: int) -> dict[tuple[int, str], float]:
    """Milliseconds of every block of every layer, which do not follow its FLOPs."""
    rng = np.random.default_rng(seed)
    return {
        (layer, block): 0.0 if block == "identity" else float(rng.uniform(0.05, 0.3))
        for layer in range(len(of.layers))
        for block in candidates(of, layer)
    }


def every_network(of: Space) -> list[Architecture]:
    return list(itertools.product(*(candidates(of, layer) for layer in range(len(of.layers)))))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limits", [{}, {"max_parameters": 4500}, {"max_file_bytes": 40_000}])
def test_no_network_within_the_limits_has_more_flops(seed: int, limits: dict[str, Any]) -> None:
    chosen = settings(blocks=BLOCKS, stages=STAGES, **limits)
    of = space(chosen)
    table = times(of, seed)

    def latency(architecture: Architecture) -> float:
        return 0.1 + sum(table[layer, block] for layer, block in enumerate(architecture))

    for milliseconds in (0.4, 0.7, 1.2):
        budget = budget_of(of, latency, chosen, milliseconds)
        within = [one for one in every_network(of) if budget.spare(one) >= 0]
        found = largest_within(budget)
        assert found in within
        assert flops(of, found) == max(flops(of, one) for one in within)


def test_the_beam_holds_every_partial_network_of_a_small_space() -> None:
    """So that the test above is of the search, not of its cuts; larger spaces lose little by them."""
    assert len(every_network(space(settings(blocks=BLOCKS, stages=STAGES)))) < BEAM


def test_as_a_strategy_it_is_one_record_without_a_score_or_a_training() -> None:
    chosen = settings(blocks=BLOCKS, stages=STAGES, strategy="largest")
    of = space(chosen)
    table = times(of, 1)

    def latency(architecture: Architecture) -> float:
        return sum(table[layer, block] for layer, block in enumerate(architecture))

    def never(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("nothing is trained or scored")

    world = World(latency=latency, train_stage=never, score=never)
    (update,) = search(of, world, chosen, 0.6, 1)
    (only,) = update.pool
    assert only.architecture == largest_within(budget_of(of, latency, chosen, 0.6))
    assert only.latency == latency(only.architecture) <= 0.6
    assert (update.scores, update.dropped) == ((), ())
    assert next(largest(of, world, chosen, 0.6, 1)) == update
