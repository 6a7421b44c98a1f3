"""Write the numbered files of a checkpoint, each whole or not at all."""

from pathlib import Path

from safetensors.torch import save

from components.training.loop import State
from flows.checkout.files import write_bytes


def write_state(file: Path, state: State) -> None:
    write_bytes(file, save({name: value.contiguous() for name, value in state.items()}))


def file_of(folder: Path, trunk: int, kind: str) -> Path:
    return folder / f"{trunk:06d}.{kind}"
