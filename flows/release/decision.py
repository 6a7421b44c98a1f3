"""What the gate last decided in this folder, as a file: results/publish/decision.json, for the report."""

from dataclasses import dataclass
from typing import Any, Literal

from flows.checkout import paths
from flows.checkout.files import read_json, write_json
from flows.release.gate import GateReport

Outcome = Literal["published", "already champion", "refused"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """How it ended; `version` is the model's own version in the registry, `run` keeps the decision."""

    version: str
    outcome: Outcome
    report: GateReport
    run: str


def keep(report: GateReport, model: str, version: str, outcome: str) -> None:
    """`model` and `version` are the registry's. Where a champion was judged again, what was decided of it stays."""
    if report.checks or decided(report.md5) is None:
        write_json(paths.DECISION, report.to_json() | {"model": model, "version": version, "outcome": outcome})


def decided(md5: str) -> dict[str, Any] | None:
    """The decision on the file with this md5; None if there is none, or the last one was on another file."""
    if not paths.DECISION.exists():
        return None
    decision: dict[str, Any] = read_json(paths.DECISION)
    return decision if decision["md5"] == md5 else None
