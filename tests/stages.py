"""A stage run by hand: what it reads of the settings is what it gets."""

from types import ModuleType
from typing import Any

from components.settings.params import Params
from flows.runtime.observer import Observer


def run(stage: ModuleType, params: Params, observe: Observer, *own: Any) -> None:
    """`own`: the variant and the checkpoint's folder, for the stages that take them."""
    stage.run(params.part(stage.Reads), observe, *own)
