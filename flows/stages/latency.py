"""Stage `latency`: measure every block once; the search reads the recorded table, because timings never repeat."""

from dataclasses import dataclass

from components.architecture.measurement import measure
from components.architecture.space import space_of
from components.data.store import read_classes
from components.settings.export import Export
from components.settings.latency import Latency
from components.settings.space import SearchSpace
from components.streams import stream
from flows.checkout import files, paths
from flows.runtime.observer import Observer


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The settings that the stage reads; dvc.yaml lists the same."""

    seed: int
    latency: Latency
    export: Export
    space: SearchSpace


def run(params: Reads, observe: Observer) -> None:
    """Write the table of block latencies with the device, every raw sample and the calibration."""
    space = space_of(params.space, read_classes(paths.CLASSES))
    table = measure(space, params.latency, params.export, stream(params.seed, "whole networks"), observe.progress)
    for place, whole in enumerate(table.wholes):
        predicted = table.line(whole.sum_ms)
        calibration = {"ms": whole.entry.ms, "predicted_ms": predicted, "error": predicted / whole.entry.ms - 1}
        observe.metrics({f"latency/calibration/{name}": value for name, value in calibration.items()}, step=place)
    observe.metrics({"latency/overhead_ms": table.overhead_ms, "latency/slope": table.slope})
    files.write_json(paths.LATENCY_TABLE, table.to_json())
    observe.file(paths.LATENCY_TABLE)
