"""A stage run by hand: what it reads of the settings is what it gets, and what earlier stages would have written."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save

from components.architecture.parts import HEAD, STEM, part_name
from components.architecture.space import IDENTITY, Space, candidates
from components.architecture.training_cost import TrainingCosts
from components.planning.speeds import Seconds, Speeds
from components.settings.params import Params
from flows.checkout import files, paths
from flows.runtime.observer import Observer

PLAIN = {"augmentation": "plain", "loss": "plain"}
SEARCHED = {"augmentation": "searched", "loss": "searched"}


def run(stage: ModuleType, params: Params, observe: Observer, *own: Any) -> None:
    """`own`: the variant and the checkpoint's folder, for the stages that take them."""
    stage.run(params.part(stage.Reads), observe, *own)


def costs(space: Space, **changes: Any) -> TrainingCosts:
    """As if the plan had measured them: a thousandth of a second for stem and head, each block its number of those."""
    parts = {STEM: 1e-3, HEAD: 1e-3}
    for index, layer in enumerate(space.layers):
        blocks = [block for block in candidates(space, index) if block != IDENTITY]
        parts |= {part_name(block, str(layer)): (place + 1) * 1e-3 for place, block in enumerate(blocks)}
    layers = tuple(str(layer) for layer in space.layers)
    values: dict[str, Any] = {"overhead": 0.0, "small": 1.0, "mean": 1.0, "speedup": 1.0}
    return TrainingCosts(layers=layers, parts=parts, **(values | changes))


def write_speeds(space: Space, **seconds: float) -> Speeds:
    """Write what the stage `plan` hands on; by default all of the time is the final training's."""
    nothing = dict.fromkeys(("architecture", "augmentation", "loss", "race"), 0.0)
    speeds = Speeds(costs=costs(space), seconds=Seconds(**(nothing | {"final": 1.0} | seconds)))
    files.write_json(paths.SPEEDS, speeds.to_json())
    return speeds


def write_decision(architecture: str, begun: Mapping[str, torch.Tensor] | None = None, **changes: Any) -> None:
    """Write what the stage `race` hands on: all that was searched ships, beside plain training of the same network."""
    begins = {"begun": begun is not None, "images": 0}
    searched = {"architecture": architecture, **SEARCHED, **begins, **changes}
    baseline = {"architecture": architecture, **PLAIN, "begun": False, "images": 0}
    record = {"decisions": [], "variants": {"searched": searched, "baseline": baseline}}
    files.write_json(paths.DECIDED, record)
    files.write_bytes(paths.BEGUN, save({key: value.contiguous() for key, value in (begun or {}).items()}))
