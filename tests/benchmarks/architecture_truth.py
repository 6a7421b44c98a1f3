"""Is the ranking to be trusted, and the choice better than simpler searches make? Against a truth trained exhaustively.

See `truth.py` for the space; its networks' accuracies alone are means over two seeds. Every strategy has its real
supernet, as many supernet steps and at most as many evaluations; what strategies share is computed once and charged to
each. Limits: latencies within which a third, a half, three quarters of the networks are.

    regret  points of accuracy between the best network that fits and the chosen one
    tau     Kendall's, of the n networks that fit, between what is believed of them and their accuracies alone

Rows, by strategy:
    <strategy>                      the network it chooses; tau of the scores by its final weights on the whole of val
    <strategy>: additive model      the network that one additive model of all its scores prefers; tau of that model
    all scored                      every network that fits is scored by uniformly trained weights
    all scored, shared statistics   the same without re-estimated batch-norm statistics
    shrunk: <strategy>              scores within the pool that half of the stages leave, by weights trained on it
    shrunk: uniform (<strategy>)    within the same pool, by uniformly trained weights after as many steps
Floors, which need no supernet: networks in the order of their layers that are no identity, FLOPs, parameters, and
latency (the largest that fits); `any`: a network drawn from those that fit.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from statistics import mean, stdev

import joblib
import numpy as np
import torch
from jaxtyping import Int64

from components.architecture.additive import fit_additive
from components.architecture.search import PoolUpdate, Scored
from components.architecture.space import IDENTITY, Architecture, Space, candidates, canonical
from components.architecture.strategies import STRATEGIES, search
from components.architecture.supernet import SharedWeights, build_supernet
from components.settings.architecture import Architecture as Settings
from components.training.inference import split_tensors
from tests.benchmarks.harness import Row, markdown, spread
from tests.benchmarks.ranking import Tau, kendall
from tests.benchmarks.remembered import UNIFORM, History, Remembered
from tests.benchmarks.truth import TASKS, Truth, data_of, read_truth, settings_of

SEEDS = tuple(range(31, 51))
"""The settings were chosen on seeds 11 to 30."""
SPACES = ("digits",)
SHARES = (0.33, 0.5, 0.75)
WORKERS = 2

COMMON: dict[str, object] = {"pool": 3, "completions": 1, "score_images": 500, "recalibration_images": 512}
"""At most 45 evaluations of 210 networks: so few that no search can score all that fit."""
VARIANTS: dict[str, dict[str, object]] = {
    "pc_nas": {"strategy": "pc_nas", "potential": "additive"},
    "pc_nas, mean": {"strategy": "pc_nas", "potential": "mean"},
} | {name: {"strategy": name} for name in STRATEGIES if name not in ("pc_nas", "largest")}


def rows() -> Iterator[Row]:
    for name in SPACES:
        truth = read_truth(name)
        for limit in truth.limits(SHARES):
            yield from floors(name, truth, limit)
    run = joblib.Parallel(n_jobs=WORKERS, return_as="generator", batch_size=1)
    for measured in run(joblib.delayed(cell)(name, seed) for name in SPACES for seed in SEEDS):
        yield from measured


def row(name: str, limit: float, strategy: str, seed: int | None, regret: float, tau: Tau, **cost: float) -> Row:
    return {
        "space": name,
        "strategy": strategy,
        "seed": seed,
        "latency_budget": round(limit, 5),
        "regret": round(regret, 3),
        "kendall_tau": round(tau.tau, 3),
        "tau_low": round(tau.low, 3),
        "tau_high": round(tau.high, 3),
        "n": tau.n,
        "supernet_steps": cost.get("steps", 0),
        "evaluations": cost.get("evaluations", 0),
        "cpu_seconds": round(cost.get("seconds", 0.0), 1),
    }


# --- against the truth


def tau_of(truth: Truth, beliefs: Mapping[Architecture, float]) -> Tau:
    return kendall(list(beliefs.values()), [truth.of(a).accuracy for a in beliefs])


def regret_of(truth: Truth, limit: float, chosen: Sequence[Architecture]) -> float:
    """Points between the best network that fits and the chosen one, on average over several that tie."""
    best = max(truth.of(a).accuracy for a in truth.within(limit))
    return 100 * (best - mean(truth.of(a).accuracy for a in chosen))


def highest(beliefs: Mapping[Architecture, float]) -> list[Architecture]:
    most = max(beliefs.values())
    return [a for a, belief in beliefs.items() if belief == most]


def floors(name: str, truth: Truth, limit: float) -> Iterator[Row]:
    """Guesses that cost nothing."""
    fitting = truth.within(limit)
    predictors = {
        "layers": {a: float(sum(block != IDENTITY for block in a)) for a in fitting},
        "FLOPs": {a: float(truth.of(a).flops) for a in fitting},
        "parameters": {a: float(truth.of(a).parameters) for a in fitting},
        "largest that fits": {a: truth.of(a).latency_ms for a in fitting},
        "any": dict.fromkeys(fitting, 0.0),
    }
    for floor, beliefs in predictors.items():
        yield row(name, limit, floor, None, regret_of(truth, limit, highest(beliefs)), tau_of(truth, beliefs))


# --- with a supernet


def cell(name: str, seed: int) -> list[Row]:
    """All strategies under all limits, for one seed of the supernet."""
    torch.set_num_threads(1)
    truth = read_truth(name)
    remembered = Remembered(weights_of(name, truth.space, seed))
    return [
        each
        for limit in truth.limits(SHARES)
        for each in (*searched(name, truth, remembered, limit, seed), *all_scored(name, truth, remembered, limit, seed))
    ]


def weights_of(
    name: str, space: Space, seed: int, rows: Int64[np.ndarray, " n"] | slice = slice(None)
) -> SharedWeights:
    """Fresh ones, for these rows of the training images."""
    data = data_of(name)
    train, val = split_tensors(data.train.at(rows)), split_tensors(data.val)
    supernet = build_supernet(space, data.mean, data.std, seed)
    return SharedWeights(supernet, settings_of(name, **COMMON), TASKS[name].recipe, train, val, seed)


def searched(name: str, truth: Truth, remembered: Remembered, limit: float, seed: int) -> Iterator[Row]:
    for variant, chosen in VARIANTS.items():
        settings = settings_of(name, **COMMON, **chosen)
        updates, cost = charged(remembered, truth.space, truth.table.predict, settings, limit, seed)
        history, scores = remembered.history, updates[-1].scores
        beliefs = remembered.score_all(history, truth.within(limit))
        regret = regret_of(truth, limit, [updates[-1].pool[0].architecture])
        yield row(name, limit, variant, seed, regret, tau_of(truth, beliefs), **cost)
        expected = additive_beliefs(truth, scores, limit)
        regret = regret_of(truth, limit, highest(expected))
        yield row(name, limit, f"{variant}: additive model", seed, regret, tau_of(truth, expected), **cost)
        if chosen["strategy"] == "pc_nas":
            yield from shrunk(name, truth, remembered, (variant, updates, history), limit, seed)


def charged(
    remembered: Remembered,
    space: Space,
    latency: Callable[[Architecture], float],
    settings: Settings,
    limit: float,
    seed: int,
) -> tuple[list[PoolUpdate], dict[str, float]]:
    """A search's records, and what it would have cost alone."""
    start = time.process_time()
    updates = list(search(space, remembered.world(latency), settings, limit, seed))
    seconds = remembered.charged + time.process_time() - start - remembered.paid
    steps, evaluations = remembered.steps(remembered.history), len(updates[-1].scores)
    return updates, {"steps": steps, "evaluations": evaluations, "seconds": seconds}


def additive_beliefs(truth: Truth, scores: Sequence[Scored], limit: float) -> dict[Architecture, float]:
    model = fit_additive(truth.space, scores)
    return {a: model.predict(a)[0] for a in truth.within(limit)}


def all_scored(name: str, truth: Truth, remembered: Remembered, limit: float, seed: int) -> Iterator[Row]:
    """What uniformly trained weights say of every network that fits."""
    history = uniform(len(truth.space.layers))
    for strategy, own in (("all scored", True), ("all scored, shared statistics", False)):
        remembered.world(truth.table.predict)
        beliefs = remembered.score_all(history, truth.within(limit), own_statistics=own)
        cost = {
            "steps": remembered.steps(history), "evaluations": len(beliefs), "seconds": remembered.charged
        }  # fmt: skip
        yield row(
            name, limit, strategy, seed, regret_of(truth, limit, highest(beliefs)), tau_of(truth, beliefs), **cost
        )  # fmt: skip


def uniform(stages: int) -> History:
    return tuple((stage, UNIFORM) for stage in range(stages + 1))


def shrunk(
    name: str,
    truth: Truth,
    remembered: Remembered,
    run: tuple[str, Sequence[PoolUpdate], History],
    limit: float,
    seed: int,
) -> Iterator[Row]:
    """Half of the layers are settled: do weights that share less rank the networks that are left better?"""
    variant, updates, history = run
    half = len(truth.space.layers) // 2
    left = within_pool(truth, [c.architecture for c in updates[half - 1].pool], limit)
    for strategy, past in (
        (f"shrunk: {variant}", history[: half + 2]),
        (f"shrunk: uniform ({variant})", uniform(half + 1)),
    ):
        remembered.world(truth.table.predict)
        beliefs = remembered.score_all(past, left)
        best = max(truth.of(a).accuracy for a in left)
        regret = 100 * (best - mean(truth.of(a).accuracy for a in highest(beliefs)))
        cost = {"steps": remembered.steps(past), "evaluations": len(left), "seconds": remembered.charged}
        yield row(name, limit, strategy, seed, regret, tau_of(truth, beliefs), **cost)


def within_pool(truth: Truth, members: Sequence[Architecture], limit: float) -> list[Architecture]:
    """The networks that fit and begin with a member, each once, in the form that the pool holds."""
    left: dict[Architecture, Architecture] = {}
    fitting = set(truth.within(limit))
    for member in members:
        ends = product(*(candidates(truth.space, layer) for layer in range(len(member), len(truth.space.layers))))
        for architecture in ((*member, *end) for end in ends):
            form = canonical(truth.space, architecture)
            if form in fitting:
                left.setdefault(form, architecture)
    return list(left.values())


# --- the table


def table(rows: Sequence[Row]) -> str:
    """Regret in points for each limit, with its deviation over seeds, and over all, with the standard error of its
    mean; tau with its interval, on average over seeds and limits."""
    limits = sorted({float(str(row["latency_budget"])) for row in rows})
    header = ["strategy", *(f"regret at {limit:.3f} ms" for limit in limits)]
    header += ["regret, all (± standard error)", "tau", "95 % interval", "n", "steps", "evaluations", "CPU s"]
    lines = []
    for strategy in dict.fromkeys(str(row["strategy"]) for row in rows):
        mine = [row for row in rows if row["strategy"] == strategy]

        def of(what: str, mine: Sequence[Row] = mine, limit: float | None = None) -> list[float]:
            return [float(str(row[what])) for row in mine if limit is None or row["latency_budget"] == limit]

        lines.append([
            strategy,
            *(spread(of("regret", limit=limit), 2) for limit in limits),
            with_error([mean(float(str(row["regret"])) for row in rows) for rows in by_seed(mine)]),
            f"{mean(of('kendall_tau')):.2f}",
            f"{mean(of('tau_low')):.2f} to {mean(of('tau_high')):.2f}",
            *(f"{mean(of(what)):.0f}" for what in ("n", "supernet_steps", "evaluations", "cpu_seconds")),
        ])  # fmt: skip
    return markdown(header, lines)


def by_seed(rows: Sequence[Row]) -> list[list[Row]]:
    return [[row for row in rows if row["seed"] == seed] for seed in dict.fromkeys(row["seed"] for row in rows)]


def with_error(values: Sequence[float]) -> str:
    """Mean and its standard error, or the value itself when there is one."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{error}"
