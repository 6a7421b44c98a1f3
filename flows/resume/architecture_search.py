"""Resume an architecture search by running it again, with the answers that it got before read from disk.

    <training>.json                 scores since that training: `<stage> <architecture>` -> accuracy
    <training>.state.safetensors    for the last training only: the shared weights with their momentum

A strategy's decisions depend only on the world's answers, so with the same answers any strategy gets back to where it
was; only answers that are not on disk are computed. Each file appears whole.
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
from flows.resume.checkpoint_files import file_of, write_state


class Weights(Protocol):
    """The weights that are trained."""

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


def with_replay(world: World, weights: Weights, folder: Path) -> World:
    """Return the world with its answers read from the folder if they are there, and written to it if not."""
    record = Record(world, weights, folder)
    return replace(world, train_stage=record.train_stage, score=record.score, score_all=record.score_all)


def finished_stages(folder: Path) -> int:
    """Return the number of stages that need no computation: those before the last one scored.

    It is smaller for strategies that score on one slice of val."""
    kept = sorted(folder.glob("[0-9]*.json"))
    stages = [int(name.partition(" ")[0]) for name in read_json(kept[-1])] if kept else []
    return max(stages, default=1) - 1


class Record:
    """The trainings and scores since the search began, one training after the other."""

    def __init__(self, world: World, weights: Weights, folder: Path) -> None:
        self.world, self.weights, self.folder = world, weights, folder
        self.training = -1
        self.scores: dict[str, float] = {}

    def train_stage(self, stage: int, pool: Pool) -> None:
        """Train, or load the weights that this training left, or do nothing if weights of a later training exist."""
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
        """Return the scores, computing those that are missing. Raises ValueError if the weights for them are gone."""
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
        """Return the number of the last training whose weights are on disk, or -1 if there are none."""
        kept = sorted(self.folder.glob("*.state.safetensors"))
        return int(kept[-1].name.partition(".")[0]) if kept else -1

    def keep_state(self) -> None:
        """Write the weights, and delete those of earlier trainings, which are not needed any more."""
        write_state(self.file("state.safetensors"), self.weights.state())
        for before in set(self.folder.glob("*.state.safetensors")) - {self.file("state.safetensors")}:
            before.unlink()

    def file(self, kind: str) -> Path:
        return file_of(self.folder, self.training, kind)
