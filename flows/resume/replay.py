"""A world of architecture search whose work is on disk: a search that is killed runs again, and is answered from there.

    <training>.json                 scores since that training: `<stage> <architecture>` -> accuracy
    <training>.state.safetensors    of the last training only: the shared weights with their momentum

A strategy's decisions follow from the world's answers, so that a strategy asked anew comes to where it was, whatever it
is; only what nobody wrote down is computed. Each file appears whole.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from safetensors.torch import load

from components.architecture.search import Pool, World
from components.architecture.space import Architecture, format_architecture
from components.settings.require import require
from components.training.loop import State
from flows.checkout.files import read_json, write_text
from flows.resume.states import file_of, write_state


class Weights(Protocol):
    """What is trained."""

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


def replayed(world: World, weights: Weights, folder: Path) -> World:
    """The world, which does nothing twice that the folder holds already."""
    record = Record(world, weights, folder)
    return replace(world, train_stage=record.train_stage, score=record.score, score_all=record.score_all)


def finished(folder: Path) -> int:
    """Stages of which nothing is left to be computed: those before the last that was scored, or fewer (strategies that
    score on one slice of val)."""
    kept = sorted(folder.glob("[0-9]*.json"))
    stages = [int(name.partition(" ")[0]) for name in read_json(kept[-1])] if kept else []
    return max(stages, default=1) - 1


class Record:
    """What was done since the search began, one training after the other."""

    def __init__(self, world: World, weights: Weights, folder: Path) -> None:
        self.world, self.weights, self.folder = world, weights, folder
        self.training = -1
        self.scores: dict[str, float] = {}

    def train_stage(self, stage: int, pool: Pool) -> None:
        """Train, or take the weights that this training left, or none: later weights are there."""
        self.training += 1
        newest = self.newest()
        if self.training > newest:
            self.world.train_stage(stage, pool)
            self.keep_state()
        elif self.training == newest:
            self.weights.restore(load(self.file("state.safetensors").read_bytes()))
        self.scores = read_json(self.file("json")) if self.file("json").exists() else {}

    def score(self, architecture: Architecture, stage: int) -> float:
        return self.score_all([architecture], stage)[0]

    def score_all(self, architectures: Sequence[Architecture], stage: int) -> list[float]:
        """Raises ValueError if scores of weights that are gone were not written down."""
        names = [f"{stage} {format_architecture(a)}" for a in architectures]
        missing = {name: a for name, a in zip(names, architectures, strict=True) if name not in self.scores}
        if missing:
            require(
                self.training == self.newest(),
                f"the checkpoint in {self.folder} lacks scores; delete that folder, and the search starts anew",
            )
            fresh = list(missing.values())
            together = self.world.score_all
            found = together(fresh, stage) if together else [self.world.score(a, stage) for a in fresh]
            self.scores |= zip(missing, found, strict=True)
            write_text(self.file("json"), json.dumps(self.scores))
        return [self.scores[name] for name in names]

    def newest(self) -> int:
        """The last training whose weights are on disk; -1: none."""
        kept = sorted(self.folder.glob("*.state.safetensors"))
        return int(kept[-1].name.partition(".")[0]) if kept else -1

    def keep_state(self) -> None:
        """The weights before are of no more use then."""
        write_state(self.file("state.safetensors"), self.weights.state())
        for before in set(self.folder.glob("*.state.safetensors")) - {self.file("state.safetensors")}:
            before.unlink()

    def file(self, kind: str) -> Path:
        return file_of(self.folder, self.training, kind)
