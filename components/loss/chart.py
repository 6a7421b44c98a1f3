"""The curves of a found loss, as a figure."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.charts import FIXED, svg
from components.loss.family import KNOWN, Curve, SearchedLoss

BESIDE = {
    "t": {"cross-entropy": "softmax", "AM-softmax": "am_softmax", "ArcFace": "arcface"},
    "tau": {"cross-entropy": "softmax", "focal": "focal"},
}
"""Known losses drawn beside the found one: label -> name in KNOWN."""

LABELS = {"t": ("cosine of image and class", "t"), "tau": ("probability p of the label", "τ")}


def loss_curves(loss: SearchedLoss) -> str:
    """t and tau of a found loss beside known ones, as SVG text."""
    with matplotlib.rc_context(FIXED):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        for axes, part, low in zip(figure.subplots(1, 2), BESIDE, (-1.0, 0.0), strict=True):
            draw_curves(axes, part, low, loss.knots[part])
    return svg(figure)


def draw_curves(axes: Axes, part: str, low: float, found: list[float]) -> None:
    grid = np.linspace(low, 1, 201)
    for label, name in BESIDE[part].items():
        curve: Curve = getattr(KNOWN[name], part)
        axes.plot(grid, curve(grid), label=label, linewidth=1)
    axes.plot(np.linspace(low, 1, len(found)), found, label="found", color="black", marker="o", markersize=3)
    axes.set_xlabel(LABELS[part][0])
    axes.set_ylabel(LABELS[part][1])
    axes.legend(frameon=False)
