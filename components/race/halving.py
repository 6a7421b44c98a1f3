"""Successive halving, one factor after the other, with a paired test for whatever wants to replace plain training.

    factor     architecture, augmentation or loss: what the candidates of a heat differ in
    choice     one value of a factor; it is plain if one would train it without any search
    rung       a piece of training after which the worse half of the choices leaves

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016. Ours: a
later factor goes on from the winner's weights of the factor before, so that the race is the beginning of the winner's
training; and the best plain choice stays to the end, where another must beat it beyond chance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from components.settings.race import Race
from components.shipping.comparison import Paired, mcnemar, pair
from components.training.loop import State
from components.training.metrics import accuracy, calibrated_log_likelihood

FACTORS = ("architecture", "augmentation", "loss")


class Setup(NamedTuple):
    """What is trained: one choice of every factor."""

    architecture: str
    augmentation: str
    loss: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of a factor."""

    value: str
    plain: bool
    """Whether it is what one would train without a search and without this choice's own assumption."""


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A candidate after a rung."""

    state: State = field(repr=False)
    """Weights and momentum to go on from."""
    logits: Tensor = field(repr=False)
    """Logits on val of the weights' moving average."""
    images: int
    """Number of train images that it has seen, those of earlier factors included."""
    fault: str = ""
    """The reason why it has no score; empty otherwise."""


Run = Callable[[Mapping[Setup, Heat | None], str, int], dict[Setup, Heat]]
"""(candidates, each with what it goes on from or None for first weights; factor; rung) -> the candidates afterwards."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate in one rung."""

    factor: str
    rung: int
    choice: str
    images: int
    accuracy: float
    """On val, in 0..1; nan if training diverged."""
    score: float
    """Log-likelihood on val at its best temperature, in nats; the order of candidates is by this number."""
    kept: bool
    fault: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether the best of what is not plain replaces the best plain choice of a factor."""

    factor: str
    plain: str
    other: str | None
    """None if every choice is plain, or no other was left."""
    paired: Paired | None
    """Images of val that the plain choice alone (`lost`) and the other alone (`won`) gets right."""
    p: float | None
    """The chance of so large a lead of the other if both were equally good."""
    taken: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The race after a factor."""

    rows: tuple[Row, ...]
    """Of this factor."""
    decision: Decision
    setup: Setup
    """The winner so far."""
    plain: Setup
    """The best that is plain in every factor."""
    heat: Heat


def race(
    factors: Mapping[str, Sequence[Choice]], run: Run, labels: Int64[Tensor, " n"], settings: Race
) -> Iterator[Standing]:
    """Decide one factor after the other, from the first choice of each; yield the standing after each.

    A factor with one choice is decided without a training, but the first, which trains the network that others go on
    from. Raises FloatingPointError if every training of a factor diverged.
    """
    setup = plain = Setup(*(choices[0].value for choices in factors.values()))
    heat: Heat | None = None
    for factor, choices in factors.items():
        entrants = {setup._replace(**{factor: choice.value}): choice for choice in choices}
        alive: dict[Setup, Heat | None] = dict.fromkeys(entrants, heat)
        rows: list[Row] = []
        if len(entrants) > 1 or heat is None:
            for rung in range(settings.rungs):
                after = run(alive, factor, rung)
                scores = {one: score_of(each, labels) for one, each in after.items()}
                judged = sorted(after, key=lambda one: -scores[one])
                kept = survivors(judged, entrants, last=rung == settings.rungs - 1)
                rows += [
                    row_of(factor, rung, entrants[one], after[one], scores[one], labels, one in kept) for one in judged
                ]
                alive = {one: after[one] for one in judged if one in kept and not after[one].fault}
                if not alive:
                    raise FloatingPointError(f"every candidate of the race's {factor} diverged ({rows[-1].fault})")
        decision, setup = decide(factor, alive, entrants, labels, settings.alpha)
        if factor == FACTORS[0]:
            plain = setup._replace(architecture=decision.plain)
        heat = alive[setup]
        assert heat is not None
        yield Standing(rows=tuple(rows), decision=decision, setup=setup, plain=plain, heat=heat)


def score_of(heat: Heat, labels: Int64[Tensor, " n"]) -> float:
    return -np.inf if heat.fault else calibrated_log_likelihood(heat.logits, labels)


def survivors(judged: Sequence[Setup], entrants: Mapping[Setup, Choice], *, last: bool) -> set[Setup]:
    """Return the better half, with the best plain candidate and the best other one; after the last rung only these."""
    leaders = {next((one for one in judged if entrants[one].plain is plain), judged[0]) for plain in (True, False)}
    return leaders if last else leaders | set(judged[: -(-len(judged) // 2)])


def row_of(
    factor: str, rung: int, choice: Choice, heat: Heat, score: float, labels: Int64[Tensor, " n"], kept: bool
) -> Row:
    return Row(
        factor=factor,
        rung=rung,
        choice=choice.value,
        images=heat.images,
        accuracy=float("nan") if heat.fault else accuracy(heat.logits, labels),
        score=float("nan") if heat.fault else score,
        kept=kept and not heat.fault,
        fault=heat.fault,
    )


def decide(
    factor: str,
    alive: Mapping[Setup, Heat | None],
    entrants: Mapping[Setup, Choice],
    labels: Int64[Tensor, " n"],
    alpha: float,
) -> tuple[Decision, Setup]:
    """Take the best plain choice, unless another is better beyond chance (McNemar's exact test, one-sided)."""
    plain = next((one for one in alive if entrants[one].plain), None)
    other = next((one for one in alive if not entrants[one].plain), None)
    if plain is None or other is None:
        taken = plain or other
        assert taken is not None
        only = entrants[taken].value
        return Decision(factor=factor, plain=only, other=None, paired=None, p=None, taken=only), taken
    answers = pair(right_of(alive[other], labels), right_of(alive[plain], labels))
    p = mcnemar(replace(answers, lost=answers.won, won=answers.lost))
    taken = other if p < alpha else plain
    values = {"plain": entrants[plain].value, "other": entrants[other].value, "taken": entrants[taken].value}
    return Decision(factor=factor, paired=answers, p=p, **values), taken


def right_of(heat: Heat | None, labels: Int64[Tensor, " n"]) -> Bool[np.ndarray, " n"]:
    assert heat is not None
    right: np.ndarray = (heat.logits.argmax(dim=1) == labels).numpy()
    return right


def gain(decision: Decision) -> tuple[float, float, float] | None:
    """Return the other's lead over the plain choice in accuracy on val, with its 95 % interval; None without another.

    The interval is the normal one of a paired difference, from the images that one of both alone gets right.
    """
    if decision.paired is None:
        return None
    n, difference = decision.paired.images, decision.paired.won - decision.paired.lost
    error = float(torch.tensor(decision.paired.won + decision.paired.lost - difference**2 / n).sqrt()) / n
    return difference / n, difference / n - 1.96 * error, difference / n + 1.96 * error
