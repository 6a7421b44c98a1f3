"""How near the loss family comes to known losses, and how often the paper's own parametrisation gives no loss at all.

    error of t, of tau   largest difference between a known loss and a member of the family, on [-1, 1] and [0, 1]
    negative             tau is 0 or below somewhere on [0, 1]: its log is no number
    falling              tau falls somewhere

Samples are drawn as the search draws them: a Gaussian around cross-entropy. The paper's sigma is 0.2, its M is 6.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from components.loss.family import KNOWN, Member, decode, representation_error
from tests.benchmarks.harness import Row, markdown, spread
from tests.benchmarks.literal_loss import decode_literal, literal_length

SEEDS = (1, 2, 3)
FEW, MANY = 7, 10
"""Knots: the paper's 6 intervals, and the presets'."""
SAMPLES = 2000
SIGMAS = (0.1, 0.2, 0.45)
"""The last is the square root of 0.2: "0.2 I" may be meant as a variance."""
PARAMETRISATIONS: dict[str, tuple[Callable[..., Member], Callable[[int], int]]] = {
    "monotone": (decode, lambda knots: 2 * knots),
    "literal": (decode_literal, literal_length),
}
"""From unconstrained numbers to a loss, and how many there are for so many knots."""


def rows() -> Iterator[Row]:
    for name, known in KNOWN.items():
        for knots in (FEW, MANY, 2 * MANY):
            error_of_t, error_of_tau = representation_error(known, knots)
            yield row(name, knots=knots, error_of_t=error_of_t, error_of_tau=error_of_tau)
    for name in PARAMETRISATIONS:
        for sigma in SIGMAS:
            for seed in SEEDS:
                negative, falling = failures(name, FEW, sigma, np.random.default_rng(seed))
                yield row(name, knots=FEW, sigma=sigma, seed=seed, negative=negative, falling=falling)


def row(loss: str, **values: float) -> Row:
    empty = dict.fromkeys(("knots", "error_of_t", "error_of_tau", "sigma", "seed", "negative", "falling"))
    return {"loss": loss} | empty | {key: round(value, 4) for key, value in values.items()}


def failures(name: str, knots: int, sigma: float, rng: np.random.Generator) -> tuple[float, float]:
    """Shares of samples whose tau is not positive somewhere above p = 0, and falls somewhere."""
    (made, length), grid = PARAMETRISATIONS[name], np.linspace(0.001, 1, 1000)
    drawn = sigma * rng.standard_normal((SAMPLES, length(knots)))
    curves = np.stack([made(theta).curve("tau", grid) for theta in drawn])
    return float((curves <= 0).any(axis=1).mean()), float((np.diff(curves, axis=1) < -1e-12).any(axis=1).mean())


def table(rows: Sequence[Row]) -> str:
    return f"{known_table(rows)}\n\n{failure_table(rows)}"


def known_table(rows: Sequence[Row]) -> str:
    lines = []
    for name in KNOWN:
        same = [row for row in rows if row["loss"] == name]
        lines.append([name, *(f"{error('error_of_t', row)}, {error('error_of_tau', row)}" for row in same)])
    return markdown(["error of t, of tau with knots:", FEW, MANY, 2 * MANY], lines)


def error(part: str, row: Row) -> str:
    value = float(str(row[part]))
    return f"{value:.3f}" if value else "0"


def failure_table(rows: Sequence[Row]) -> str:
    lines = []
    for name in PARAMETRISATIONS:
        for sigma in SIGMAS:
            same = [row for row in rows if (row["loss"], row["sigma"]) == (name, sigma)]
            shares = [spread([100 * float(str(row[part])) for row in same]) for part in ("negative", "falling")]
            lines.append([name, sigma, *shares])
    return markdown(["parametrisation", "sigma", "tau not positive somewhere, %", "tau falls somewhere, %"], lines)
