"""Define the deployments of prefect.yaml: retrain on a schedule, and retrain when the source has changed enough.

Each runs `python -m flows.retrain` of committed code in the workspace (flows/schedule/workspace.py). For Prefect that
is a separate flow run, which reports its own end. The reason is in this flow's end state and a tag of the MLflow run.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("deploy")  # before the slow imports, so that --help answers at once

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from prefect import State, flow, get_client
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.checkout import files, paths
from flows.checkout.settings import load_params
from flows.release.registry import CHAMPION
from flows.retrain import REASON, end_stale_flows, stamps
from flows.runtime import processes, signals
from flows.runtime.exits import ends_in_a_sentence
from flows.schedule import artifacts, workspace
from flows.schedule.notify import notify
from flows.schedule.trigger import Decision
from flows.schedule.workspace import Served
from flows.tracking import connection, models

FLOW_ENDS = (signal.SIGTERM, signal.SIGKILL)
"""Signals that end the flow started by this one; the flow then ends its stage as gently as time allows."""
CODES = commands.COMMANDS["retrain"].codes | {130: "interrupted", 143: "interrupted"}


@flow(
    name="retrain on schedule", persist_result=False, on_failure=[notify], on_crashed=[notify], on_cancellation=[notify]
)
def scheduled(revision: str = "HEAD", place: str | None = None) -> State:
    """Retrain now, at the git `revision`, in the workspace `place` (default: a folder beside this checkout)."""
    return attempt(revision, place, poll=False)


@flow(
    name="retrain on new data", persist_result=False, on_failure=[notify], on_crashed=[notify], on_cancellation=[notify]
)
def watching(revision: str = "HEAD", place: str | None = None) -> State:
    """Retrain if there are enough new images, or if they are of another distribution."""
    return attempt(revision, place, poll=True)


def attempt(revision: str, place: str | None, *, poll: bool) -> State:
    """Do the work of both flows; every expected mistake becomes a Failed state with its sentence."""
    stamp()
    checkout = Path.cwd()
    folder = Path(place).absolute() if place else workspace.default_place(checkout)
    try:
        with workspace.workspace_lock(folder), processes.guarded():
            commit = workspace.prepare(checkout, folder, revision)
            decision = ask(checkout, folder) if poll else Decision(train=True, reason="on schedule")
            print(f"{commit[:10]}: {decision.reason}")
            if not decision.train:
                return Completed(message=f"nothing to do: {decision.reason}")
            return retrain_in(checkout, folder, decision.reason)
    except (ValueError, OSError) as mistake:
        return Failed(message=str(mistake))


def stamp() -> None:
    """Record in Prefect which process runs this flow, and mark the runs whose processes were killed as crashed.

    If Prefect fails, there is only a warning."""
    if flow_run.id is None:  # called as a plain function, not as a flow
        return
    with artifacts.failure_as_warning("which process runs this flow"):
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), tags=[*flow_run.tags, *stamps()])
        end_stale_flows()


def ask(checkout: Path, folder: Path) -> Decision:
    """Let the workspace's own code decide about the source. Raises ValueError with its sentence if it fails."""
    done = subprocess.run(
        workspace.python("-m", "flows.deploy"),
        cwd=folder, env=workspace.environment(checkout), capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stderr, end="", file=sys.stderr)
    decided = done.returncode in (0, 3)
    sentence = ((done.stdout if decided else done.stderr).strip().splitlines() or [""])[-1]
    if not decided:
        raise ValueError(sentence.removeprefix("error: ") or f"the poll ended with {done.returncode}")
    return Decision(train=done.returncode == 0, reason=sentence)


def retrain_in(checkout: Path, folder: Path, reason: str) -> State:
    """Run the retrain in the workspace; commit and tag there what was promoted."""
    params = load_params(folder / paths.PARAMS)
    before = champion(params.publish.model)
    workspace.begin_from_last(folder, params, before)
    environment = workspace.environment(checkout) | {REASON: reason}
    workspace.begin(folder)
    command = workspace.python("-m", "flows.retrain")
    code = processes.run_group(command, environment, folder, FLOW_ENDS, 3 * processes.PATIENCE)
    if code in (0, 3):
        workspace.finish(folder)
    if code != 0:
        kind = Completed if code == 3 else Failed
        return kind(message=f"{CODES.get(code, f'ended with {code}')} (because: {reason})")
    return record_champion(folder, params.publish.model, before, reason)


def record_champion(folder: Path, model: str, before: Served | None, reason: str) -> State:
    """Commit and tag the champion, which is in the workspace after a successful retrain.

    If an earlier run was killed after its promotion and before this, this run adds the missing tag."""
    after = champion(model)
    if after is None or after.md5 != files.md5_of((folder / paths.MODEL).read_bytes()):
        return Completed(message=f"another version was put into service meanwhile (because: {reason})")
    tag = workspace.record(folder, model, after.number)
    with connection.failure_as_warning("the version's tag"):
        models.tag_version(model, after.number, {"git.tag": tag})
    outcome = f"the champion stays version {after.number}" if after == before else f"version {after.number} published"
    return Completed(message=f"{outcome}, tagged {tag} (because: {reason})")


def champion(model: str) -> Served | None:
    """Return the version in service, or None. Raises ValueError if the registry cannot be reached."""
    try:
        number = models.alias_version(model, CHAMPION)
        return Served(number=number, md5=models.version_tags(model, number).get("md5")) if number else None
    except connection.ERRORS as error:
        raise ValueError(f"the MLflow registry cannot be asked ({error}); see MLFLOW_TRACKING_URI") from None


@ends_in_a_sentence
def main(arguments: Sequence[str] | None = None) -> int:
    """Decide in the workspace and print the reason.

    Exit codes: 0 to train, 3 not to, 2 if the source cannot be used, 1 if the registry cannot.
    """
    commands.parse("deploy", arguments)
    from flows.schedule.trigger import decide

    signals.heed_signals()  # otherwise SIGTERM leaves the images behind that were read
    decision = decide(load_params())
    print(decision.reason)
    return 0 if decision.train else 3


if __name__ == "__main__":
    commands.run(main)
