"""The latency table: what a network's blocks were measured to take, and what it is predicted to take."""

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
    """A whole network of the calibration, milliseconds."""

    architecture: str
    sum_ms: float
    """Sum of its parts without their overhead."""
    entry: Entry


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Everything measured, and the line from sums of parts to networks."""

    device: Device
    quantize: str
    """`export.quantize`: the precision of everything measured."""
    layers: tuple[str, ...]
    """The shape of each layer of the space it was measured for."""
    overhead_ms: float
    slope: float
    intercept_ms: float
    entries: tuple[Entry, ...]
    """Parts by name: stem, head, `<block> <shape>`, the empty session and the reference."""
    wholes: tuple[Whole, ...]

    def sum_of_parts(self, architecture: Architecture) -> float:
        """Milliseconds of the network's parts without their sessions' overhead."""
        times = {entry.name: entry.ms for entry in self.entries}
        return sum_of_parts(times, self.layers, architecture)

    def predict(self, architecture: Architecture) -> float:
        """Milliseconds of one inference of the network; its parts add up.

        Raises ValueError if the table was measured for other blocks or shapes.
        """
        return self.line(self.sum_of_parts(architecture))

    def line(self, sum_ms: float) -> float:
        """Milliseconds of a network whose parts sum up to so many."""
        return self.intercept_ms + self.slope * sum_ms

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts, lists and dictionaries; the inverse of `from_json`."""
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
    """Milliseconds of stem, blocks and head, each without the overhead of its session."""
    try:
        names = parts(layers, architecture)
        return sum(times[name] for name in names) - len(names) * times[EMPTY]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"the latency table does not cover {format_architecture(architecture)} ({error}); "
            f"measure it again for the present params"
        ) from error
