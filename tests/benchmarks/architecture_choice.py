"""Whose choice is best where no one can train every network? What each strategy chooses is trained alone and tested.

Spaces of thousands of networks, as the presets have (`digits_deep` and `cifar10_small` of `truth.py`), under a latency
within which half of the networks are. Every strategy has its real supernet, as many supernet steps and at most as many
evaluations; what strategies share is computed once and charged to each. Each seed has its own supernet, and its choices
are trained alone with two initialisations, the same for all. Nulls: `drawn`, a network drawn from those that fit;
`most FLOPs`, the one of most FLOPs among many drawn.

Agreed before the first run: the presets change their strategy if another one is better than theirs by more than two
standard errors of the difference, paired by seed, in each space or in both together.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from statistics import mean

import joblib
import numpy as np
import torch

from components.architecture.budget import Budget, budget_of
from components.architecture.costs import costs_of
from components.architecture.rivals import draw_networks
from components.architecture.space import Architecture, format_architecture
from tests.benchmarks.architecture_truth import COMMON as SCORED
from tests.benchmarks.architecture_truth import charged, weights_of, with_error
from tests.benchmarks.harness import Row, markdown
from tests.benchmarks.make_truth import measured
from tests.benchmarks.remembered import Remembered
from tests.benchmarks.truth import settings_of, train_alone, truth_space

SEEDS = tuple(range(1, 17))
SPACES = {"digits_deep": SEEDS, "cifar10_small": SEEDS[:10]}
"""Each with its seeds: a network of the second takes four times as long."""
SHARE = 0.5
DRAWN = 1000
"""Networks that the limit, and the one of most FLOPs, are found among."""
INITIALISATIONS = 2
WORKERS = 2

COMMON = SCORED | {"pool": 4, "completions": 3}
VARIANTS: dict[str, dict[str, object]] = {
    "pc_nas": {"strategy": "pc_nas", "potential": "additive"},
    "pc_nas, mean": {"strategy": "pc_nas", "potential": "mean"},
    "ridge": {"strategy": "ridge", "potential": "additive"},
    "evolution": {"strategy": "evolution"},
    "random": {"strategy": "random"},
}
OURS = "pc_nas"
"""The presets' strategy, which others are compared with."""

Latency = Callable[[Architecture], float]


def rows() -> Iterator[Row]:
    run = joblib.Parallel(n_jobs=WORKERS, return_as="generator", batch_size=1)
    for name, seeds in SPACES.items():
        latency = measured(truth_space(name)).predict
        limit = limit_of(name, latency)
        for found in run(joblib.delayed(cell)(name, latency, limit, seed) for seed in seeds):
            yield from found


def limit_of(name: str, latency: Latency) -> float:
    """Milliseconds within which the share of the space's networks is."""
    any_of_them = within(name, latency, 1e6)
    return float(np.quantile([latency(a) for a in networks_of(any_of_them, 0)], SHARE))


def within(name: str, latency: Latency, limit: float) -> Budget:
    return budget_of(truth_space(name), latency, settings_of(name, **COMMON), limit)


def networks_of(budget: Budget, seed: int) -> list[Architecture]:
    """Drawn evenly from those that fit."""
    return list(islice(draw_networks(budget, np.random.default_rng((seed, 1))), DRAWN))


def cell(name: str, latency: Latency, limit: float, seed: int) -> list[Row]:
    """All choices of one seed, each trained alone."""
    torch.set_num_threads(1)
    space = truth_space(name)
    remembered = Remembered(weights_of(name, space, seed))
    chosen: dict[str, tuple[Architecture, dict[str, float]]] = {}
    for variant, changes in VARIANTS.items():
        settings = settings_of(name, **COMMON, **changes)
        updates, cost = charged(remembered, space, latency, settings, limit, seed)
        chosen[variant] = updates[-1].pool[0].architecture, cost
    fitting = networks_of(within(name, latency, limit), seed)
    chosen["drawn"] = fitting[0], {}
    chosen["most FLOPs"] = max(fitting, key=lambda a: costs_of(space, a).flops), {}
    accuracies = {
        a: mean(train_alone(name, a, INITIALISATIONS * seed + n) for n in range(INITIALISATIONS))
        for a in {a for a, _ in chosen.values()}
    }
    return [
        row(name, limit, strategy, seed, a, accuracies[a], latency(a), **cost)
        for strategy, (a, cost) in chosen.items()
    ]  # fmt: skip


def row(
    name: str, limit: float, strategy: str, seed: int, chosen: Architecture, accuracy: float, latency: float,
    **cost: float,
) -> Row:  # fmt: skip
    return {
        "space": name,
        "strategy": strategy,
        "seed": seed,
        "latency_budget": round(limit, 5),
        "architecture": format_architecture(chosen),
        "latency_ms": round(latency, 5),
        "test_accuracy": round(accuracy, 5),
        "supernet_steps": cost.get("steps", 0),
        "evaluations": cost.get("evaluations", 0),
        "cpu_seconds": round(cost.get("seconds", 0.0), 1),
    }


# --- the table


def table(rows: Sequence[Row]) -> str:
    """Accuracies in per cent with the standard error of their mean; leads in points, paired by seed."""
    header = ["space", "strategy", "test accuracy, %", f"minus {OURS}", "minus random", "steps", "evaluations", "CPU s"]
    lines = []
    for space in dict.fromkeys(str(row["space"]) for row in rows):
        here = [row for row in rows if row["space"] == space]
        ours, random = percent(here, OURS), percent(here, "random")
        for strategy in dict.fromkeys(str(row["strategy"]) for row in here):
            mine = percent(here, strategy)
            cost = [row for row in here if row["strategy"] == strategy]
            lines.append([
                space,
                strategy,
                with_error(mine),
                "" if strategy == OURS else with_error(np.subtract(mine, ours).tolist()),
                "" if strategy == "random" else with_error(np.subtract(mine, random).tolist()),
                *(
                    f"{mean(float(str(row[what])) for row in cost):.0f}"
                    for what in ("supernet_steps", "evaluations", "cpu_seconds")
                ),
            ])  # fmt: skip
    return markdown(header, lines)


def percent(rows: Sequence[Row], strategy: str) -> list[float]:
    """By seed."""
    mine = [row for row in rows if row["strategy"] == strategy]
    return [100 * float(str(row["test_accuracy"])) for row in sorted(mine, key=lambda row: int(str(row["seed"])))]
