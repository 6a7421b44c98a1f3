"""A figure of the curves of a found loss."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.charts import FIXED, svg
from components.loss.family import KNOWN, LOWEST, Curve, Member

BESIDE = {
    "t": {"cross-entropy": "softmax", "AM-softmax": "am_softmax", "ArcFace": "arcface"},
    "tau": {"cross-entropy": "softmax", "focal": "focal"},
}
"""Known losses drawn beside the found one, for each curve: label -> name in KNOWN."""

LABELS = {"t": ("cosine of image and class", "t"), "tau": ("probability p of the label", "τ")}


def loss_curves(loss: Member) -> str:
    """Draw t and tau of a found loss beside known ones; return SVG text."""
    with matplotlib.rc_context(FIXED):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        for axes, part in zip(figure.subplots(1, 2), BESIDE, strict=True):
            draw_curves(axes, part, loss)
    return svg(figure)


def draw_curves(axes: Axes, part: str, loss: Member) -> None:
    grid = np.linspace(LOWEST[part], 1, 201)
    for label, name in BESIDE[part].items():
        curve: Curve = getattr(KNOWN[name], part)
        axes.plot(grid, curve(grid), label=label, linewidth=1)
    axes.plot(grid, loss.curve(part, grid), label="found", color="black")
    axes.set_xlabel(LABELS[part][0])
    axes.set_ylabel(LABELS[part][1])
    axes.legend(frameon=False)
