"""Figures as SVG text whose bytes depend on the numbers alone: no date, no random ids, and text kept as text."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

FIXED: Any = {"svg.hashsalt": "assembly-line", "svg.fonttype": "none"}

Points = Sequence[tuple[float, float]]
"""Pairs of (milliseconds, score)."""


def svg(figure: Figure) -> str:
    """Return the figure as SVG text."""
    text = io.StringIO()
    with matplotlib.rc_context(FIXED):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def score_against_latency(scored: Points, front: Points, chosen: Points, budgets: Sequence[float], metric: str) -> str:
    """Draw every scored network, the Pareto front, the budgets and the networks chosen for them; return SVG text."""
    with matplotlib.rc_context(FIXED):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.scatter([ms for ms, _ in scored], [score for _, score in scored], s=8, color="silver", label="scored")
        axes.step(
            [ms for ms, _ in front],
            [score for _, score in front],
            where="post",
            color="black",
            linewidth=1,
            label="Pareto front",
        )
        for index, budget in enumerate(budgets):
            axes.axvline(budget, color="tab:red", linewidth=1, linestyle=":", label="" if index else "budget")
        axes.scatter(
            [ms for ms, _ in chosen],
            [score for _, score in chosen],
            marker="*",
            s=120,
            color="tab:red",
            zorder=3,
            label="chosen",
        )
        axes.set_xlabel("predicted latency, ms")
        axes.set_ylabel(f"{metric} on val with shared weights")
        axes.legend(frameon=False)
    return svg(figure)
