"""Stage `further_budget`: measure what `evaluate` measures for a further budget's model, with its own latency limit."""

from flows.checkout import paths
from flows.runtime.observer import Observer
from flows.stages.evaluate import Reads, evaluate


def run(params: Reads, observe: Observer, variant: str) -> None:
    """Evaluate the model of `variant`, which is `budget_<n>` for the n-th of `budget.latency_ms`."""
    number = int(variant.removeprefix("budget_"))
    evaluate(params, observe, (variant,), params.budget.all[number - 1], paths.FURTHER_BUDGET / variant)
