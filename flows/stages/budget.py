"""budget: what `evaluate` measures, of the model of a further budget, beside its own limit."""

from components.settings.params import Params
from flows.checkout import paths
from flows.runtime.observer import Observer
from flows.stages.evaluate import evaluate


def run(params: Params, observe: Observer, variant: str) -> None:
    """`variant`: `budget_<n>`, of the n-th of `architecture.latency_ms`."""
    number = int(variant.removeprefix("budget_"))
    evaluate(params, observe, (variant,), params.architecture.budgets[number - 1], paths.BUDGET / variant)
