"""The latency table: measured times of all blocks, and the prediction of a network's latency from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.architecture.parts import EMPTY, parts
from components.architecture.space import (
    Architecture,
    format_architecture,
)
from components.architecture.timing import (
    Device,
    Entry,
)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A whole network that was measured for the calibration; times are in milliseconds."""

    architecture: str
    sum_ms: float
    """Sum of its parts' times without their overhead."""
    entry: Entry


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """All measured times, and the line that predicts a network's latency from the sum of its parts."""

    device: Device
    quantize: str
    """The precision of everything measured, as in `export.quantize`."""
    layers: tuple[str, ...]
    """Shape of each layer of the measured space."""
    overhead_ms: float
    slope: float
    intercept_ms: float
    entries: tuple[Entry, ...]
    """Times of the parts by name: stem, head, `<block> <shape>`, the empty session and the reference."""
    wholes: tuple[Whole, ...]

    def sum_of_parts(self, architecture: Architecture) -> float:
        """Return the milliseconds of the network's parts without their sessions' overhead."""
        times = {entry.name: entry.ms for entry in self.entries}
        return sum_of_parts(times, self.layers, architecture)

    def predict(self, architecture: Architecture) -> float:
        """Predict the milliseconds of one inference of the network.

        Raises ValueError if the table was measured for other blocks or shapes.
        """
        return self.line(self.sum_of_parts(architecture))

    def line(self, sum_ms: float) -> float:
        """Return the milliseconds of a network whose parts sum up to `sum_ms`."""
        return self.intercept_ms + self.slope * sum_ms

    def to_json(self) -> dict[str, Any]:
        """Return numbers, texts, lists and dictionaries that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LatencyTable":
        entries = tuple(entry_of(entry) for entry in value["entries"])
        wholes = tuple(Whole(**(whole | {"entry": entry_of(whole["entry"])})) for whole in value["wholes"])
        simple = {"device": Device(**value["device"]), "layers": tuple(value["layers"])}
        return cls(**(dict(value) | simple | {"entries": entries, "wholes": wholes}))


def entry_of(value: Mapping[str, Any]) -> Entry:
    samples, references = tuple(value["samples"]), tuple(value["references"])
    return Entry(**(dict(value) | {"samples": samples, "references": references}))


def sum_of_parts(times: Mapping[str, float], layers: tuple[str, ...], architecture: Architecture) -> float:
    """Return the milliseconds of stem, blocks and head, each without the overhead of its session."""
    try:
        names = parts(layers, architecture)
        return sum(times[name] for name in names) - len(names) * times[EMPTY]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"the latency table does not cover {format_architecture(architecture)} ({error}); "
            f"measure it again for the present params"
        ) from error
