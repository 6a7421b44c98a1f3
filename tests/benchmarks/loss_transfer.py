"""Does a loss found on one data part serve another? Found on the digits of one seed, frozen, trained from scratch.

    own        found on the very part that it is trained on
    elsewhere  found on the digits of another seed, whose images, wrong labels and rare classes are others
    another data set: the same, trained on a part of CIFAR-10

The searched numbers travel; class margins follow the training images of where they are used. All networks train with
all of C: what is compared is the loss, not the search's cost.
"""

from collections.abc import Iterator, Sequence

import torch

from components.loss.family import Member
from components.training.loop import Criterion, cross_entropy
from tests.benchmarks.augmentation_shift import cell_of, groups, lead
from tests.benchmarks.hard import Hard, accuracy_of, hard_of, train_network
from tests.benchmarks.harness import Row, markdown
from tests.benchmarks.loss_hard import loss_at, searched, settings_of

SEEDS = (11, 12, 13)
TASKS = ("clean", "noise 40 %", "noise 40 %, val too", "imbalance 1:50")
FURTHER = 10
"""From the seed that a loss is trained on to the one it was found on."""
METHODS = ("cross_entropy", "own", "elsewhere")


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    for task in TASKS:
        for seed in SEEDS:
            here, there = hard_of("digits", task, seed), hard_of("digits", task, seed + FURTHER)
            own, elsewhere = (searched(each, "search") for each in (here, there))
            for data in ("digits", "cifar10"):
                target = hard_of(data, task, seed)
                losses: dict[str, Criterion] = {"cross_entropy": cross_entropy()}
                losses |= {"own": at(own, target)} if data == "digits" else {}
                losses |= {"elsewhere": at(elsewhere, target)}
                for name, loss in losses.items():
                    beginning = loss.beginning() if isinstance(loss, Member) else None
                    state = train_network(target, target.final, loss, target.data.compute, beginning)
                    accuracy = round(accuracy_of(target, state, target.test), 5)
                    yield {"data": data, "task": task, "seed": seed, "method": name, "test_accuracy": accuracy}


def at(found: tuple[list[float], float], hard: Hard) -> Member:
    """The loss of theta for the target's training images, at the scale that it was found with."""
    theta, scale = found
    return loss_at(theta, hard, settings_of(hard, "search")).at_scale(scale)


def table(rows: Sequence[Row]) -> str:
    lines = []
    for where, of in groups(rows):
        leads = [lead(of(name), of("cross_entropy")) for name in METHODS[1:]]
        lines.append([where, *(cell_of(of(name)) for name in METHODS), *leads])
    header = ["trained on", "cross-entropy", "found on it", "found on other digits"]
    return markdown([*header, "on it - cross-entropy", "other digits - cross-entropy"], lines)
