"""Keep the gate's last decision in results/publish/decision.json, which the report reads."""

from dataclasses import dataclass
from typing import Any, Literal

from flows.checkout import paths
from flows.checkout.files import read_json, write_json
from flows.release.gate import GateReport

Outcome = Literal["published", "already champion", "refused"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """The result of publishing: `version` is the model's version in the registry, `run` the run with the decision."""

    version: str
    outcome: Outcome
    report: GateReport
    run: str


def keep(report: GateReport, model: str, version: str, outcome: str) -> None:
    """Write the decision to disk; `model` and `version` are their names in the registry.

    If the model is already champion (the report has no checks), the earlier decision on it stays.
    """
    if report.checks or decision_on(report.md5) is None:
        write_json(paths.DECISION, report.to_json() | {"model": model, "version": version, "outcome": outcome})


def decision_on(md5: str) -> dict[str, Any] | None:
    """Return the decision on the file with this md5, or None if the last decision was on another file."""
    if not paths.DECISION.exists():
        return None
    decision: dict[str, Any] = read_json(paths.DECISION)
    return decision if decision["md5"] == md5 else None
