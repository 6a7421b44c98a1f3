"""Resume a race by running it again, with the candidates of finished rungs read from disk.

    <number>.heats.safetensors    a rung: each candidate's weights, momentum and logits; faults and images in the header

What the race does depends on its candidates' answers alone, so that with the same answers it gets back to where it was.
Each file appears whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from components.race.halving import Heat, Run, Setup
from flows.checkout.files import write_bytes
from flows.resume.checkpoint_files import file_of

KIND, LOGITS, STATE = "heats.safetensors", "logits", "state"


def with_replay(run: Run, folder: Path) -> Run:
    """Return the function that trains a rung, with rungs in the folder read, and new ones written."""
    rungs = 0

    def replay(candidates: Mapping[Setup, Heat | None], factor: str, rung: int) -> dict[Setup, Heat]:
        nonlocal rungs
        file, rungs = file_of(folder, rungs, KIND), rungs + 1
        if file.exists():
            return dict(zip(candidates, read_heats(file), strict=True))
        heats = run(candidates, factor, rung)
        write_heats(file, list(heats.values()))
        return heats

    return replay


def write_heats(file: Path, heats: list[Heat]) -> None:
    tensors = {}
    for place, heat in enumerate(heats):
        tensors[f"{place}.{LOGITS}"] = heat.logits.contiguous()
        tensors |= {f"{place}.{STATE}.{name}": value.cpu().contiguous() for name, value in heat.state.items()}
    figures = [{"images": heat.images, "fault": heat.fault} for heat in heats]
    write_bytes(file, save(tensors, metadata={"heats": json.dumps(figures)}))


def read_heats(file: Path) -> list[Heat]:
    with safe_open(file, framework="pt") as opened:
        tensors: dict[str, torch.Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        figures = json.loads(opened.metadata()["heats"])
    return [
        Heat(
            state={
                name.removeprefix(f"{place}.{STATE}."): value
                for name, value in tensors.items()
                if name.startswith(f"{place}.{STATE}.")
            },
            logits=tensors[f"{place}.{LOGITS}"],
            **figure,
        )
        for place, figure in enumerate(figures)
    ]
