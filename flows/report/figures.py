"""Draw the report's charts with matplotlib, as SVG text.

Colours are matplotlib's own; page.py turns them into colours that follow the reader's light or dark page. If there are
more points or cells than a browser draws easily, they become pixels inside the SVG.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from components.charts import FIXED, svg

OPEN: Any = {"axes.spines.top": False, "axes.spines.right": False}
STYLE: Any = FIXED | OPEN | {"legend.frameon": False, "font.size": 9, "text.parse_math": False}
"""Style of all charts. Texts are not parsed as markup, because a class may be called $x$."""
POINTS, CELLS = 1500, 1200
"""Numbers of points and of cells above which they are drawn as pixels."""
MAX_NAMES = 40
"""Largest number of classes whose names fit beside a matrix."""
MAX_COUNTS = 16
"""Largest number of classes whose counts fit into its cells."""
DECADES = 30
"""Ratio of the largest to the smallest loss above which the axis is logarithmic."""
MAX_LETTERS = 24
"""Largest number of letters of a name in a chart."""


def draw_svg(draw: Callable[[Figure], None], width: float, height: float) -> str:
    """Let `draw` draw on a new figure of this size in inches, and return it as SVG."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has fonts for what matplotlib has none
        figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
        draw(figure)
        return svg(figure)


def with_open_axes(chart: Callable[[], str]) -> str:
    """Draw a chart of components with the axes of the charts in this module."""
    with matplotlib.rc_context(OPEN):
        return chart()


def shorten(name: str) -> str:
    """Shorten a name to fit into a chart, and replace letters that XML forbids."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return clean if len(clean) <= MAX_LETTERS else clean[: MAX_LETTERS - 1] + "…"


def label_trunk_axis(axes: Axes, what: str = "trunk") -> None:
    axes.set_xlabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# --- headline


def intervals(values: Mapping[str, tuple[float, float, float]]) -> str:
    """Draw one line for each network; `values` maps its name to (accuracy, low, high)."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (middle, low, high) in enumerate(values.values()):
            error = [[middle - low], [high - middle]]
            axes.errorbar(middle, -place, xerr=error, fmt="o", capsize=4, color=f"C{place}")
        axes.set_yticks([-place for place in range(len(values))], list(values))
        axes.set_ylim(0.5 - len(values), 0.5)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", color="silver", linewidth=0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("accuracy on the test split, with 95% interval")

    return draw_svg(draw, 6, 0.9 + 0.3 * len(values))


# --- the online searches


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """The rewards of all copies (or elements) of all trunks; index i of each sequence belongs to one of them."""

    trunks: Sequence[int]
    rewards: Sequence[float]
    best: Sequence[bool]


def rewards_by_trunk(rewards: Rewards, progress: Mapping[int, float], measured: str) -> str:
    """Draw every reward with each trunk's best marked, and beside it the model's `measured` score after each trunk."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        x, y = np.array(rewards.trunks), np.array(rewards.rewards)
        best = np.array(rewards.best)
        left.scatter(x[~best], y[~best], s=9, color="C0", alpha=0.5, linewidths=0, rasterized=len(x) > POINTS)
        left.scatter(x[best], y[best], s=70, marker="*", color="tab:red", label="best of the trunk", zorder=3)
        left.set_ylabel("reward")
        left.legend()
        right.plot(list(progress), list(progress.values()), marker="o", markersize=3, color="black")
        right.set_ylabel(measured)
        for axes in (left, right):
            label_trunk_axis(axes)

    return draw_svg(draw, 7.5, 2.9)


def shares_by_trunk(names: Sequence[str], shares: Float[np.ndarray, "names start_and_trunks"]) -> str:
    """Draw a row for each name, with a column for the start and each trunk, and the last share at its end.

    Colours follow the square root of the share, so that small shares are visible.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        heat_map(figure, axes, shares, PowerNorm(0.5, vmin=0, vmax=float(shares.max())), "cividis", -1, "share")
        axes.set_yticks(range(len(names)), [shorten(name) for name in names])
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(len(names)), [f"{100 * share:.1f}%" for share in shares[:, -1]])
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
        label_trunk_axis(axes)
        axes.xaxis.set_major_formatter(lambda trunk, _: "start" if trunk == -1 else f"{trunk:.0f}")

    return draw_svg(draw, 7, 0.9 + 0.21 * len(names))


def mean_by_trunk(names: Sequence[str], mean: Float[np.ndarray, "names trunks"]) -> str:
    """Draw a row for each component of the Gaussian's mean, where 0 is cross-entropy."""
    reach = float(np.abs(mean).max()) or 1.0

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        heat_map(figure, axes, mean, TwoSlopeNorm(0, -reach, reach), "PuOr", 0, "μ")
        axes.set_yticks(range(len(names)), names)
        label_trunk_axis(axes)

    return draw_svg(draw, 7, 0.9 + 0.19 * len(names))


def heat_map(
    figure: Figure, axes: Axes, values: Float[np.ndarray, "r c"], norm: Normalize, colours: str, first: int, of: str
) -> None:
    """Draw a matrix with rows from the top and columns numbered from `first`, each cell centred on its number."""
    rows, columns = values.shape
    mesh = axes.pcolormesh(
        np.arange(first, first + columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        values,
        norm=norm,
        cmap=colours,
        edgecolors="face",  # otherwise the page shows between cells
        linewidth=0.3,
        rasterized=values.size > CELLS,
    )
    axes.invert_yaxis()
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(mesh, ax=axes, label=of, pad=0.01).outline.set_visible(False)


# --- architecture


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A (partial) model that a stage of the search judged; `error` is nan if it is not known."""

    stage: int
    potential: float
    error: float
    kept: bool


def pool_by_stage(judged: Sequence[Judged], metric: str) -> str:
    """Draw the score that each stage expected of its candidates, those that it kept and those that it dropped."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for kept, colour, label, shift in ((False, "silver", "dropped", 0.12), (True, "C0", "in the pool", -0.12)):
            some = [one for one in judged if one.kept == kept]
            if some:
                axes.errorbar(
                    [one.stage + shift for one in some],
                    [one.potential for one in some],
                    yerr=np.nan_to_num([one.error for one in some]),
                    fmt="o", markersize=4, elinewidth=1, color=colour, label=label, rasterized=len(some) > POINTS,
                )  # fmt: skip
        axes.set_ylabel(f"expected {metric} on val")
        label_trunk_axis(axes, "stage: one more layer is decided")
        axes.legend()

    return draw_svg(draw, 6, 3)


def predicted_against_measured(
    calibration: Sequence[tuple[float, float]], named: Mapping[str, tuple[float, float]]
) -> str:
    """Draw (predicted, measured) milliseconds of the calibration's networks and of the trained ones."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        every = [*calibration, *named.values()]
        ends = [min(min(pair) for pair in every), max(max(pair) for pair in every)]
        axes.plot(ends, ends, color="silver", linewidth=1, label="equal")
        x, y = zip(*calibration, strict=True)
        axes.scatter(x, y, s=16, color="black", label="calibration, random networks")
        for place, (name, (predicted, measured)) in enumerate(named.items()):
            axes.scatter(
                [predicted], [measured], s=60, marker="*^svD"[place % 5], color=f"C{place}", label=name, zorder=3
            )
        axes.set_xlabel("predicted, ms")
        axes.set_ylabel("measured, ms")
        axes.legend()

    return draw_svg(draw, 5.2, 3.4)


# --- training and evaluation


def training_curves(losses: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """Draw the training losses; `losses` maps each variant to (epochs, loss)."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (name, (epochs, loss)) in enumerate(losses.items()):
            axes.plot(epochs, loss, label=name, color=f"C{place}", linestyle=("-", "--", ":", "-.")[place % 4])
        axes.set_ylabel("training loss")
        every = [value for _, loss in losses.values() for value in loss]
        if 0 < min(every) < max(every) / DECADES:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")  # the usual one writes powers in markup
            axes.yaxis.set_minor_formatter("")
        label_trunk_axis(axes, "epoch")
        axes.legend()

    return draw_svg(draw, 6, 2.9)


def confusion(matrix: Float[np.ndarray, "k k"], names: Sequence[str]) -> str:
    """Draw the counts of actual (rows) and predicted classes (columns), coloured by their share of the row."""
    count = len(names)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        heat_map(figure, axes, shares, PowerNorm(0.5, vmin=0, vmax=1), "cividis", 0, "share of the actual class")
        axes.set_aspect("equal")
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
        if count <= MAX_NAMES:
            axes.set_xticks(range(count), [shorten(name) for name in names], rotation=90)
            axes.set_yticks(range(count), [shorten(name) for name in names])
        if count <= MAX_COUNTS:
            for row, column in np.argwhere(matrix):
                bright = shares[row, column] > 0.3
                ink = "#010101" if bright else "#fefefe"
                axes.text(column, row, f"{matrix[row, column]:.0f}", color=ink, ha="center", va="center", fontsize=8)

    side = 3.2 + 0.16 * min(count, MAX_NAMES)
    return draw_svg(draw, side + 0.8, side)
