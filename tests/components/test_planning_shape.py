"""The shape of the networks: as wide as the budget allows, on images of a size that suits the originals."""

from collections.abc import Callable

import pytest

from components.architecture.space import space_of
from components.data.store import Classes
from components.planning.shape import (
    FILLED,
    TEMPLATES,
    WIDTHS,
    as_settings,
    fit_width,
    narrower,
    resolution,
    template_for,
)
from components.settings.space import SearchSpace

BLOCKS = ("res_k3", "mb_k3_e3")


def power(exponent: float, overhead: float = 0.0) -> Callable[[int], float]:
    """Milliseconds that grow with the width, 1 at 16 but for the overhead."""
    return lambda width: overhead + (width / 16) ** exponent


class Counted:
    def __init__(self, measure: Callable[[int], float]) -> None:
        self.measure = measure
        self.widths: list[int] = []

    def __call__(self, width: int) -> float:
        self.widths.append(width)
        return self.measure(width)


@pytest.mark.parametrize("limit", [0.06, 0.3, 0.9, 1.0, 1.1, 2.5, 6.0, 21.0])
@pytest.mark.parametrize("exponent", [1.2, 1.7, 2.0])
@pytest.mark.parametrize("overhead", [0.0, 0.02])
def test_the_width_fills_the_limit_or_no_wider_one_does(exponent: float, overhead: float, limit: float) -> None:
    measure = Counted(power(exponent, overhead))
    fitted = fit_width(measure, limit)
    within = [width for width in WIDTHS if measure.measure(width) <= limit]
    assert fitted.default_ms == measure.measure(fitted.width)
    assert len(measure.widths) == len(set(measure.widths)) <= 5
    if within:
        assert fitted.default_ms <= limit
        assert fitted.width == within[-1] or fitted.default_ms >= FILLED * limit
    else:
        assert fitted.width == min(measure.widths)


def test_a_noisy_or_steep_measure_never_gives_a_width_over_the_limit_while_one_is_within() -> None:
    def steps(width: int) -> float:
        return 0.5 if width < 12 else 40.0

    assert fit_width(steps, 1.0).default_ms == 0.5


def test_where_nothing_fits_the_smallest_width_is_taken() -> None:
    assert fit_width(power(1.7), 1e-6).width == WIDTHS[0]


@pytest.mark.parametrize(
    ("side", "size"), [(8, 16), (16, 16), (17, 24), (28, 32), (32, 32), (40, 40), (41, 64), (96, 64), (500, 64)]
)
def test_small_originals_keep_their_size_and_large_ones_are_reduced(side: int, size: int) -> None:
    found, why = resolution(side)
    assert found == size
    assert f"at {size} pixels" in why
    assert str(side) in why


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.side)
def test_stages_have_channels_in_multiples_of_8_and_are_a_space_for_such_images(template, width: int) -> None:  # type: ignore[no-untyped-def]
    shape = template.at(width, BLOCKS)
    assert (shape.stem, shape.blocks) == (width, BLOCKS)
    channels = [stage[0] for stage in shape.stages]
    assert all(count % 8 == 0 for count in channels)
    assert channels == sorted(channels)
    assert len(space_of(shape, Classes(names=("a", "b"), size=max(8, template.side), channels=3)).layers) >= 5


@pytest.mark.parametrize(("side", "stem_stride", "stages"), [(16, 1, 2), (32, 1, 3), (64, 2, 3), (224, 2, 4)])
def test_larger_images_have_more_stages_and_a_stem_that_halves_them(side: int, stem_stride: int, stages: int) -> None:
    template = template_for(side)
    assert (template.stem_stride, len(template.stages)) == (stem_stride, stages)


def test_the_next_narrower_width_is_the_one_below_until_there_is_none() -> None:
    widths = [WIDTHS[-1]]
    while (below := narrower(widths[-1])) is not None:
        widths.append(below)
    assert tuple(reversed(widths)) == WIDTHS


def test_a_shape_as_settings_gives_the_same_shape_back() -> None:
    shape = TEMPLATES[1].at(12, BLOCKS)
    values = as_settings(shape)
    stages = tuple(tuple(stage) for stage in values.pop("stages"))
    assert SearchSpace(stages=stages, blocks=BLOCKS, **values) == shape
