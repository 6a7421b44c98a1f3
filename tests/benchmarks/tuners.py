"""Optuna and Ray Tune as their users would drive them: a block for each layer, trials stopped early by their pruner.

Both get a space's networks, the accuracy on val after every epoch, and CPU seconds. A network over the latency budget
ends its trial before it trains, which costs nothing here.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from components.architecture.space import Architecture, Space, candidates

Train = Callable[[Architecture], Iterator[tuple[float, float]]]
"""Network -> accuracy on val, and CPU seconds of the trial so far, after every epoch."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a tuner is asked."""

    space: Space
    fits: Callable[[Architecture], bool]
    train: Train
    epochs: int
    """Of a trial that is not stopped early."""
    seconds: float
    """CPU seconds of all trials together; the trial that passes them is the last."""
    seed: int

    def choices(self) -> Mapping[str, tuple[str, ...]]:
        """Return the blocks of every layer, by the name of the tuner's parameter."""
        return {f"layer {index}": candidates(self.space, index) for index in range(len(self.space.layers))}


@dataclass(frozen=True, kw_only=True)
class Found:
    architecture: Architecture
    spent: float
    trials: int
    """That trained."""


def by_optuna(problem: Problem) -> Found:
    """TPE and Hyperband, Optuna's usual pair."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seconds: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        chosen = tuple(trial.suggest_categorical(name, blocks) for name, blocks in problem.choices().items())
        if not problem.fits(chosen):
            raise optuna.TrialPruned
        seconds.append(0.0)
        best = 0.0
        for epoch, (right, seconds[-1]) in enumerate(problem.train(chosen)):
            best = max(best, right)
            trial.report(right, epoch)
            if trial.should_prune() or sum(seconds) >= problem.seconds:
                raise optuna.TrialPruned
        return best

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=problem.seed),
        pruner=optuna.pruners.HyperbandPruner(max_resource=problem.epochs),
    )
    for _ in count():
        if sum(seconds) >= problem.seconds:
            break
        study.optimize(objective, n_trials=1)
    # A pruned trial's last accuracy counts too: the seconds may end before any trial does.
    trained = [one for one in study.trials if one.intermediate_values]
    best = max(trained, key=lambda one: max(one.intermediate_values.values()))
    chosen = tuple(best.params[name] for name in problem.choices())
    return Found(architecture=chosen, spent=sum(seconds), trials=len(trained))


def by_ray_tune(problem: Problem) -> Found:
    """ASHA over draws at random, Ray Tune's usual scheduler; one trial at a time."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    def trial(config: Mapping[str, Any]) -> None:
        chosen = tuple(config[name] for name in problem.choices())
        if not problem.fits(chosen):
            tune.report({"right": 0.0, "spent": 0.0})
            return
        for right, spent in problem.train(chosen):
            tune.report({"right": right, "spent": spent})

    class SecondsOver(tune.Stopper):
        """Ends everything once the trials' seconds are spent."""

        def __init__(self) -> None:
            self.spent: dict[str, float] = {}

        def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
            self.spent[trial_id] = result["spent"]
            return False

        def stop_all(self) -> bool:
            return sum(self.spent.values()) >= problem.seconds

    stopper = SecondsOver()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        results = tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={name: tune.choice(blocks) for name, blocks in problem.choices().items()},
            tune_config=tune.TuneConfig(
                metric="right",
                mode="max",
                scheduler=ASHAScheduler(max_t=problem.epochs),
                search_alg=tune.search.BasicVariantGenerator(random_state=problem.seed, max_concurrent=1),
                num_samples=10_000,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(stop=stopper, verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    best = results.get_best_result(scope="all")
    chosen = tuple(best.config[name] for name in problem.choices())
    trained = sum(seconds > 0 for seconds in stopper.spent.values())
    return Found(architecture=chosen, spent=sum(stopper.spent.values()), trials=trained)
