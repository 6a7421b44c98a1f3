"""The trunks of a search on disk while it runs, so that a stage that is killed goes on where it was, to the same bytes.

    <trunk>.json                the record, floats exact
    <trunk>.kept.safetensors    what the stage needs of the trunk's state at its end, if anything
    <trunk>.state.safetensors   of the last trunk only: the model and the controller's arrays

Each file appears whole; a trunk counts as finished once its record is there, which is written last.
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
from flows.resume.states import file_of, write_state

S = TypeVar("S")
Keep = Callable[[Trunk[S]], State]
"""What the stage needs of a trunk's state when all trunks are done."""

CONTROLLER = "controller."
NOT_IN_JSON = {"state", "theta", "gradient_gram"}
"""Fields that are stored elsewhere or, like the gradients, not needed once the controller has read them."""


class Search(Protocol[S]):
    """A search that starts anew, or after a recorded trunk."""

    def __call__(self, *, after: Trunk[S] | None) -> Iterator[Trunk[S]]: ...


def nothing(trunk: Trunk[S]) -> State:
    return {}


def resumed(search: Search[S], folder: Path, settings: Online, keep: Keep[S] = nothing) -> Iterator[Trunk[S]]:
    """Every trunk of a search: those that the folder holds, then the search's own, each written down before it is seen.

    The state of a trunk read from the folder is what `keep` kept of it, of the last one everything. Raises `ValueError`
    for a folder with a gap.
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


def finished(folder: Path) -> int:
    """Trunks that `resumed` reads and does not compute."""
    return len(list(folder.glob("*.json")))


def require_whole(folder: Path, records: Sequence[Path]) -> None:
    """All trunks from the first, and the state to go on from."""
    expected = [file_of(folder, index, "json") for index in range(len(records))]
    whole = list(records) == expected and (
        not records or file_of(folder, len(records) - 1, "state.safetensors").exists()
    )
    require(whole, f"the checkpoint in {folder} lacks a trunk; delete that folder, and the search starts anew")


def write_trunk(folder: Path, trunk: Trunk[S], kept: State) -> None:
    """The record last; then the state of the trunk before is of no more use."""
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
    record["controller"] = restored(settings, record["controller"] | arrays)
    return Trunk(**record, state=state)


def restored(settings: Online, values: Mapping[str, Any]) -> Controller:
    return replace(first_controller(settings), **values)


def state_of(record: Path) -> State:
    """Everything, or what was kept, or nothing."""
    for kind in ("state.safetensors", "kept.safetensors"):
        if (file := record.with_suffix(f".{kind}")).exists():
            return load(file.read_bytes())
    return {}


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(tuples(each) for each in value) if isinstance(value, list) else value
