"""Report how a flow ended: send JSON to the address in ASSEMBLY_LINE_WEBHOOK, if it is set.

The address of a webhook is a secret, so it is in the environment and not in params.yaml. A message that cannot be
delivered causes a warning and takes SECONDS at most; it never changes how the flow ended.
"""

import json
import logging
import os
import urllib.request
from http.client import HTTPException
from typing import Any

from prefect import State
from prefect.client.schemas.objects import FlowRun

from flows.release.decision_record import Published

WEBHOOK = "ASSEMBLY_LINE_WEBHOOK"
SECONDS = 5.0
"""Seconds to wait for the receiver (our choice)."""

LOG = logging.getLogger(__name__)


def notify(flow: Any, flow_run: FlowRun, state: State) -> None:
    """Send the message; a Prefect hook for on_completion, on_failure, on_crashed and on_cancellation."""
    if address := os.environ.get(WEBHOOK):
        post(address, message(flow_run, state))


def message(run: FlowRun, state: State) -> dict[str, Any]:
    """Return the message: chat services show its `text`, the other values are for programs."""
    name, outcome = state.name or state.type.value, state.message or "no more is known"
    facts: dict[str, Any] = {"run": run.name, "run_id": str(run.id), "state": name, "message": state.message}
    ended = getattr(state.data, "result", state.data)  # Prefect wraps what a flow returns
    if isinstance(ended, Published):
        outcome = f"model version {ended.version} {ended.outcome}"
        facts |= {"model_version": ended.version, "outcome": ended.outcome}
    return {"text": f"retrain {run.name} {name.lower()}: {outcome}", **facts}


def post(address: str, value: dict[str, Any]) -> None:
    """Send the message once, within SECONDS. A warning about a failure leaves out the address."""
    try:
        body, kind = json.dumps(value).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(address, data=body, headers=kind, method="POST")
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except (OSError, ValueError, HTTPException) as error:  # an invalid address is a ValueError
        # HTTP's own exceptions may repeat a part of the address
        reason = "" if isinstance(error, HTTPException) else str(error).replace(address, "the address")
        LOG.warning("warning: nobody was told how the flow ended (%s in %s)", reason or type(error).__name__, WEBHOOK)
