"""budget: what `evaluate` measures, of the model of a further budget, beside its own limit."""

from flows.checkout import paths
from flows.runtime.observer import Observer
from flows.stages.evaluate import Reads, evaluate


def run(params: Reads, observe: Observer, variant: str) -> None:
    """`variant`: `budget_<n>`, of the n-th of `architecture.latency_ms`."""
    number = int(variant.removeprefix("budget_"))
    evaluate(params, observe, (variant,), params.budgets[number - 1], paths.BUDGET / variant)
