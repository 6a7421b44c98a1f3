"""Write each trunk of a search to disk, so that a killed stage resumes after it and ends with the same bytes.

    <trunk>.json                the record, floats exact
    <trunk>.kept.safetensors    what the stage needs of the trunk's state when the search ends, if anything
    <trunk>.state.safetensors   for the last trunk only: the model and the controller's arrays

Each file appears whole. The record is written last, so a trunk with a record is complete.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load

from components.online.controllers import Controller, first_controller
from components.online.engine import Trunk
from components.settings.online import Online
from components.settings.require import require
from components.training.loop import State
from flows.checkout.files import read_json, write_text
from flows.resume.checkpoint_files import file_of, write_state

S = TypeVar("S")
Keep = Callable[[Trunk[S]], State]
"""Selects what the stage needs of a trunk's state when all trunks are done."""

CONTROLLER = "controller."
NOT_IN_JSON = {"state", "theta", "gradient_gram"}
"""Fields of a trunk that the record leaves out: they are stored otherwise, or (the gradients) not needed any more."""


class Search(Protocol[S]):
    """A search that starts from the beginning, or after a recorded trunk."""

    def __call__(self, *, after: Trunk[S] | None) -> Iterator[Trunk[S]]: ...


def keep_nothing(trunk: Trunk[S]) -> State:
    return {}


def resume_search(
    search: Search[S], folder: Path, settings: Online, keep: Keep[S] = keep_nothing
) -> Iterator[Trunk[S]]:
    """Yield every trunk of a search: first those in the folder, then new ones, each written before it is yielded.

    A trunk read from the folder has only the state that `keep` selected; the last one has its whole state. Raises
    `ValueError` if a trunk is missing in between.
    """
    records = sorted(folder.glob("*.json"))
    require_whole(folder, records)
    last = None
    for file in records:
        last = read_trunk(file, settings)
        yield last
    for trunk in search(after=last):
        write_trunk(folder, trunk, keep(trunk))
        yield trunk


def finished_trunks(folder: Path) -> int:
    """Return the number of trunks that `resume_search` reads instead of computing them."""
    return len(list(folder.glob("*.json")))


def require_whole(folder: Path, records: Sequence[Path]) -> None:
    """Raise ValueError unless all trunks from the first on are there, with the last one's state."""
    expected = [file_of(folder, index, "json") for index in range(len(records))]
    whole = list(records) == expected and (
        not records or file_of(folder, len(records) - 1, "state.safetensors").exists()
    )
    require(whole, f"the checkpoint in {folder} lacks a trunk; delete that folder, and the search starts anew")


def write_trunk(folder: Path, trunk: Trunk[S], kept: State) -> None:
    """Write the trunk, its record last; then delete the state of the trunk before, which is not needed any more."""
    values = {field.name: getattr(trunk.controller, field.name) for field in fields(trunk.controller)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    record = {field.name: getattr(trunk, field.name) for field in fields(trunk) if field.name not in NOT_IN_JSON}
    record["theta"] = trunk.theta.tolist()
    record["controller"] = {name: value for name, value in values.items() if name not in arrays}
    if kept:
        write_state(file_of(folder, trunk.index, "kept.safetensors"), kept)
    tensors = {CONTROLLER + name: torch.from_numpy(array) for name, array in arrays.items()}
    state = file_of(folder, trunk.index, "state.safetensors")
    write_state(state, trunk.state | tensors)
    write_text(file_of(folder, trunk.index, "json"), json.dumps(record))
    for before in set(folder.glob("*.state.safetensors")) - {state}:
        before.unlink()


def read_trunk(file: Path, settings: Online) -> Trunk[Any]:
    record = {name: tuples(value) for name, value in read_json(file).items()}
    state = state_of(file)
    arrays = {
        name.removeprefix(CONTROLLER): state.pop(name).numpy() for name in list(state) if name.startswith(CONTROLLER)
    }
    record["theta"] = np.array(record["theta"], dtype=np.float64)
    record["controller"] = restore_controller(settings, record["controller"] | arrays)
    return Trunk(**record, state=state)


def restore_controller(settings: Online, values: Mapping[str, Any]) -> Controller:
    return replace(first_controller(settings), **values)


def state_of(record: Path) -> State:
    """Return the trunk's whole state if it is there, else what was kept of it, else nothing."""
    for kind in ("state.safetensors", "kept.safetensors"):
        if (file := record.with_suffix(f".{kind}")).exists():
            return load(file.read_bytes())
    return {}


def tuples(value: Any) -> Any:
    """Turn JSON's lists back into tuples."""
    return tuple(tuples(each) for each in value) if isinstance(value, list) else value
