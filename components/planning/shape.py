"""The shape of the space: resolution, and widths so that the slowest network takes 1.5 to 3 times the budget.

w  width of the stem; a stage's width is a multiple of it
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from components.settings.space import SearchSpace

WIDTHS = (4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96)
"""Widths that are tried."""
SLOWEST = (1.5, 2.2, 3.0)
"""Lowest, wanted and highest latency of the slowest network, as a multiple of the budget."""
GROWTH = 1.7
"""Exponent by which latency grows with the width, for the first guess; the guess is measured."""
TRIES = 4
MULTIPLE = 8
"""Channels of a stage are a multiple of this, which kernels compute without waste."""
SMALL, LARGE = 40, 64
"""Originals of up to `SMALL` pixels keep their size; larger ones are reduced to `LARGE`."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """Stages for images from a side on, as multiples of the stem's width."""

    side: int
    stem_stride: int
    stages: tuple[tuple[float, int, int], ...]
    """(multiple of the stem's width, layers, stride of the first)."""

    def at(self, width: int, blocks: tuple[str, ...]) -> SearchSpace:
        stages = tuple(
            (MULTIPLE * max(1, round(factor * width / MULTIPLE)), layers, stride)
            for factor, layers, stride in self.stages
        )
        return SearchSpace(stem=width, stem_stride=self.stem_stride, stages=stages, blocks=blocks)


TEMPLATES = (
    Template(side=4, stem_stride=1, stages=((1.5, 2, 2), (3.0, 3, 2))),
    Template(side=24, stem_stride=1, stages=((2.0, 2, 2), (4.0, 2, 2), (8.0, 2, 2))),
    Template(side=48, stem_stride=2, stages=((2.0, 2, 2), (4.0, 2, 2), (8.0, 2, 2))),
    Template(side=112, stem_stride=2, stages=((1.5, 2, 2), (2.0, 2, 2), (4.0, 3, 2), (8.0, 2, 2))),
)
"""Stages for small and for large images (ours), the last whose side is not above the image's."""


def template_for(side: int) -> Template:
    return [template for template in TEMPLATES if template.side <= side][-1]


def resolution(side: int) -> tuple[int, str]:
    """Return the side of the square that networks see, for originals of this (median) side, and why."""
    if side <= SMALL:
        size = max(16, 8 * -(-side // 8))
        return size, f"Images are seen at {size} pixels, because the originals have {side}."
    return LARGE, f"Images are seen at {LARGE} pixels: the originals have {side}, and training on more costs more."


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A width with the latency of its slowest network."""

    width: int
    slowest_ms: float


def fit_width(measure: Callable[[int], float], budget_ms: float, most: int = WIDTHS[-1]) -> Fitted:
    """Return the width, `most` at the most, at which `measure` (milliseconds of the slowest network) is nearest to the
    wanted multiple of the budget. It measures a few widths, guided by a power law."""
    low, wanted, high = (factor * budget_ms for factor in SLOWEST)
    widths = [width for width in WIDTHS if width <= most]
    seen: dict[int, float] = {}
    width = min(widths, key=lambda one: abs(one - 16))
    for _ in range(TRIES):
        seen[width] = measure(width)
        if low <= seen[width] <= high:
            break
        ideal = width * (wanted / seen[width]) ** (1 / GROWTH)
        width = min(widths, key=lambda one: abs(one - ideal))
        if width in seen:
            break
    best = min(seen, key=lambda one: abs(seen[one] - wanted))
    return Fitted(width=best, slowest_ms=seen[best])


def narrower(width: int) -> int | None:
    """Return the next smaller width, or None if this is the smallest."""
    below = [one for one in WIDTHS if one < width]
    return below[-1] if below else None


def as_settings(space: SearchSpace) -> dict[str, Any]:
    """Return the space's settings as params.yaml has them, without the blocks, which are a person's."""
    plain = replace(space)
    return {"stem": plain.stem, "stem_stride": plain.stem_stride, "stages": [list(stage) for stage in plain.stages]}
