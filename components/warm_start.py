"""What a search of the online engine leaves for a later one to start with, as JSON values, exactly."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from components.online.controllers import Controller, begun_with, evidence_of, first_controller
from components.settings.online import Online
from components.settings.params import OtherSpace
from components.settings.require import require


def record_of(about: Mapping[str, Any], theta: Float64[np.ndarray, " p"], controller: Controller) -> dict[str, Any]:
    """`about`: what theta is about."""
    return {**about, "theta": theta.tolist(), "evidence": evidence_of(controller)}


def begun_from(
    record: Mapping[str, Any], about: Mapping[str, Any], parameters: int, online: Online
) -> tuple[Float64[np.ndarray, " p"], Controller]:
    """theta of such a record, and the settings' controller with its evidence.

    Raises OtherSpace for one that is about something else; ValueError, KeyError for what is no record.
    """
    theta, evidence = np.array(record["theta"], dtype=np.float64), record["evidence"]
    changed = [name for name, value in about.items() if record.get(name) != value]
    if changed:
        raise OtherSpace(f"it has other {' and '.join(changed)} than the settings")
    require(theta.shape == (parameters,), f"theta holds {theta.size} numbers, not {parameters}")
    return theta, begun_with(first_controller(online), evidence, parameters)
