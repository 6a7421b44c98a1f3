"""Write the final training to disk while it runs, so that a killed stage resumes at an epoch and gets the same bytes.

It is one file, whole or missing: the weights that would ship (`ships.`), those that training continues with
(`trained.`), the generator's state, and in its header the curve so far.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from safetensors import safe_open
from safetensors.torch import save

from components.training.fit import Epoch
from components.training.loop import State
from flows.checkout.files import write_bytes

NAME = "training.safetensors"
SHIPS, TRAINED, DRAWS = "ships.", "trained.", "draws"
SHARE = 0.02
"""Largest share of the time for writing (our choice): a network that trains many epochs per second is not written after
each."""


class Training(Protocol):
    """A training that starts from the beginning, or after an epoch."""

    def __call__(self, *, after: Epoch | None) -> Iterator[Epoch]: ...


def resume_training(training: Training, folder: Path, share: float = SHARE) -> Iterator[Epoch]:
    """Yield every epoch of a training: first those in the folder, then new ones, which are written from time to time.

    Of the epochs read from the folder, only the last has tensors.
    """
    done = read_epochs(folder / NAME)
    yield from done
    due = 0.0
    for epoch in training(after=done[-1] if done else None):
        done.append(epoch)
        if (began := time.monotonic()) >= due:
            write_epochs(folder / NAME, done)
            due = time.monotonic() + (time.monotonic() - began) / share
        done[-1] = replace(epoch, state={}, trained={})
        yield epoch


def finished_epochs(folder: Path) -> int:
    """Return the number of epochs that `resume_training` reads instead of computing them."""
    if not (folder / NAME).exists():
        return 0
    with safe_open(folder / NAME, framework="pt") as opened:
        return len(json.loads(opened.metadata()["epochs"]))


def write_epochs(file: Path, epochs: list[Epoch]) -> None:
    last = epochs[-1]
    tensors = {DRAWS: last.draws} | add_prefix(SHIPS, last.state) | add_prefix(TRAINED, last.trained)
    curve = [{"index": e.index, "loss": e.loss, "learning_rate": e.learning_rate} for e in epochs]
    write_bytes(file, save(tensors, metadata={"epochs": json.dumps(curve)}))


def add_prefix(prefix: str, state: State) -> State:
    return {prefix + name: value.contiguous() for name, value in state.items()}


def read_epochs(file: Path) -> list[Epoch]:
    if not file.exists():
        return []
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
        curve = json.loads(opened.metadata()["epochs"])
    draws = tensors[DRAWS]
    epochs = [Epoch(**figures, state={}, trained={}, draws=draws) for figures in curve]
    return [
        *epochs[:-1],
        replace(epochs[-1], state=select_prefix(tensors, SHIPS), trained=select_prefix(tensors, TRAINED)),
    ]


def select_prefix(tensors: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
