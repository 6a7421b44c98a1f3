"""The shape of the space: resolution, and widths so that the default network just fits the budget.

Plain 3x3 convolutions, with max pooling where the image is made smaller and with shortcuts elsewhere, as wide as the
budget allows, are the strongest network that one would choose by hand (docs/lab.md). Around it the space has cheaper
and dearer blocks, so that a search can trade one layer against another. A space's width is that of its stem; the width
of a stage is a multiple of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.settings.space import SearchSpace

WIDTHS = (4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96)
"""Widths that are tried."""
FILLED = 0.8
"""Share of the limit from which a default network counts as filling it."""
GROWTH = 1.7
"""Exponent by which latency grows with the width, for guesses, which are measured."""
TRIES = 5
FIRST = 16
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
    Template(side=24, stem_stride=1, stages=((2.0, 1, 2), (4.0, 2, 2), (8.0, 2, 2))),
    Template(side=48, stem_stride=2, stages=((2.0, 1, 2), (4.0, 2, 2), (8.0, 2, 2))),
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
    """A width with the latency of its default network."""

    width: int
    default_ms: float


def fit_width(measure: Callable[[int], float], limit_ms: float) -> Fitted:
    """Return the largest width whose default network is within the limit, or the smallest width if none is.

    `measure` gives the milliseconds of a width's default network. A few widths are measured, guided by a power law.
    """
    seen: dict[int, float] = {}
    width = FIRST
    for _ in range(TRIES):
        seen[width] = measure(width)
        if FILLED * limit_ms <= seen[width] <= limit_ms:
            break
        ideal = width * (limit_ms / seen[width]) ** (1 / GROWTH)
        bounds = [one for one in WIDTHS if one not in seen and between(one, seen, limit_ms)]
        if not bounds:
            break
        width = min(bounds, key=lambda one: (one > ideal, abs(one - ideal)))
    within = [one for one in seen if seen[one] <= limit_ms]
    best = max(within) if within else min(seen)
    return Fitted(width=best, default_ms=seen[best])


def between(width: int, seen: Mapping[int, float], limit_ms: float) -> bool:
    """Whether the width may be the largest that fits, after what was measured."""
    fits = max((one for one in seen if seen[one] <= limit_ms), default=0)
    exceeds = min((one for one in seen if seen[one] > limit_ms), default=WIDTHS[-1] + 1)
    return fits < width < exceeds


def narrower(width: int) -> int | None:
    """Return the next smaller width, or None if this is the smallest."""
    below = [one for one in WIDTHS if one < width]
    return below[-1] if below else None


def as_settings(space: SearchSpace) -> dict[str, Any]:
    """Return the space's settings as params.yaml has them, without the blocks, which are a person's."""
    return {"stem": space.stem, "stem_stride": space.stem_stride, "stages": [list(stage) for stage in space.stages]}
