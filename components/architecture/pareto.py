"""The Pareto front of accuracy and latency: the networks that no other network beats in both.

A network counts once, with its last score, which is from the most trained weights and the most images of val.
"""

from collections.abc import Iterable

from components.architecture.search import Scored
from components.architecture.space import Architecture


def last_scores(scores: Iterable[Scored]) -> list[Scored]:
    """Return every network's last evaluation, fastest first."""
    last: dict[Architecture, Scored] = {}
    for one in scores:
        if one.architecture not in last or one.stage >= last[one.architecture].stage:
            last[one.architecture] = one
    return sorted(last.values(), key=lambda one: (one.latency, -one.score, one.architecture))


def front(scores: Iterable[Scored]) -> list[Scored]:
    """Return the networks that no other beats in accuracy or latency without losing in the other; fastest first."""
    kept: list[Scored] = []
    for one in last_scores(scores):
        if not kept or one.score > kept[-1].score:
            kept.append(one)
    return kept
