"""Run the whole line as a Prefect flow: ingest, every stage of dvc.yaml in DVC's order, gate, publish, report.

Prefect decides when and how a stage runs, DVC whether it runs: a task is one `dvc repro -s <stage>` in its own process
group, and takes only names and ids.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("retrain")  # before the slow imports, so that --help answers at once

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import State, flow, get_client, tags, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.context import TagsContext
from prefect.runtime import flow_run, task_run
from prefect.states import Crashed, Failed
from prefect.utilities.urls import url_for

from components.settings.params import Params
from flows import ingest, publish
from flows.checkout import commits, files, paths, pipeline, versions
from flows.checkout.locks import file_lock
from flows.checkout.roster import SEARCHES
from flows.checkout.settings import complete, load_params
from flows.release import decision_record, judge
from flows.release.gate import GateReport
from flows.report import findings
from flows.runtime import handover, processes, progress, signals, terminal
from flows.runtime.board import Board, live_board
from flows.runtime.exits import Failure, ends_in_a_sentence, refuse
from flows.schedule.artifacts import Artifacts, failure_as_warning
from flows.schedule.notify import notify
from flows.schedule.readiness import require_ready
from flows.tracking import connection, runs, stage_run

P = ParamSpec("P")
R = TypeVar("R")

LOCK = Path(".dvc/tmp/retrain.lock")
INGEST = "ingest"
AFTER = GATE, PUBLISH, REPORT = "gate", "publish", "report"
"""Steps of the line after the stages of dvc.yaml."""
REASON = "ASSEMBLY_LINE_REASON"
"""Environment variable with the reason why this retrain was started, if no person started it."""
UNREACHABLE = {
    "Failed to reach API": "start that server, or unset PREFECT_API_URL: a run then has a server of its own",
    "Timed out while attempting to connect": "try again when this machine is less busy, or give it more time: "
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=300",
}
"""Beginning of Prefect's message when its server does not answer -> what to do."""
STAMP = "line."
"""Prefix of the Prefect tags that say which process runs a flow."""


class StageFailed(Failure):
    """A stage ended with an error; its sentence says why."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Busy(Failure):
    """Another retrain runs in this folder."""

    code = 5


BUSY = "another retrain is running in this folder; wait for it, or stop it with Ctrl-C there"
EXPECTED = (ValueError, OSError, Failure)
"""Exceptions that may occur without a bug in the line."""


def failure_as_state(step: Callable[P, R]) -> Callable[P, R]:
    """Make an expected failure a Failed state with its sentence: Prefect would log a traceback of an exception."""

    @wraps(step)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return step(*arguments, **named)
        except EXPECTED as mistake:
            return Failed(message=str(mistake), data=mistake)  # type: ignore[return-value]  # Prefect's protocol

    return run


def outcome(state: State) -> Any:
    """Return the task's result, or raise the exception that made it fail."""
    result = state.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return result


@task(name="ingest", task_run_name="ingest", cache_policy=NO_CACHE, persist_result=False)
@failure_as_state
def ingest_data(params: Params, channel: Path) -> str:
    """Ingest the source into a DVC data version and return its digest."""
    with progress.tracker_for(progress.Channel(channel)) as tracker:
        report = ingest.ingest(params, tracker.progress)
        tracker.metrics({"ingest/images": report.images})
        print(report.sentence())
    return versions.data_digest(paths.RAW_DVC)


@task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
@failure_as_state
def reproduce(name: str, parent_run: str | None, channel: Path) -> None:
    """Run `dvc repro -s <stage>`; its MLflow run nests in the parent, and its progress goes to the channel."""
    if pipeline.unchanged(name):
        print(f"Stage '{name}' didn't change, skipping")  # as DVC would
        return
    ids = f"{flow_run.id} {task_run.id}"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        environment = versions.stage_environment() | {handover.REPORT: str(report), handover.PREFECT_IDS: ids}
        environment[progress.CHANNEL] = str(channel)
        if parent_run:
            environment[handover.PARENT_RUN] = parent_run
        code = None
        try:
            with versions.without_hints() as output:
                command = versions.dvc("--wait-for-lock", "repro", "--single-item", name)
                code = processes.run_group(command, environment, stdout=output)
        finally:
            if code != 0:
                stage_run.settle()  # ends the run of a stage that was killed and could not end it
        if code != 0:
            pipeline.restore(name)
            raise failure_of(name, report)


def failure_of(name: str, report: Path) -> StageFailed:
    """Return the failure that the stage wrote to its report, or a general one if it was killed and wrote none."""
    if not report.exists():
        return StageFailed(1, f"stage {name} failed; what it printed is above")
    failure = files.read_json(report)
    return StageFailed(failure["code"], failure["sentence"])


@task(name="gate", task_run_name="gate", cache_policy=NO_CACHE, persist_result=False)
@failure_as_state
def decide(params: Params) -> GateReport:
    """Judge the model: every check with its value and threshold."""
    return judge.judge(params)


@task(name="publish", task_run_name="publish", cache_policy=NO_CACHE, persist_result=False)
@failure_as_state
def ship(params: Params, parent_run: str | None, report: GateReport) -> decision_record.Published:
    """Register the model and, if it passed the gate, move the champion alias."""
    published = publish.publish(params, parent_run, report)
    with failure_as_warning("the gate's checks"):
        create_markdown_artifact(
            f"{findings.judgement(published.report)}\n\n{published.report.to_markdown()}",
            key="gate",
            description=f"Version {published.version} {published.outcome}",
        )
    return published


@task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
@failure_as_state
def write_report(params: Params, published: decision_record.Published) -> None:
    """Write the report, store it with the run, and link it in Prefect."""
    publish.keep_report(params, published.run)
    with connection.failure_as_warning("what Prefect shows of it"), failure_as_warning("headline and report"):
        found = publish.findings_of(params, published)
        create_markdown_artifact(
            publish.run_note(found, published.run, runs.address_of),
            key="headline",
            description=f"Version {published.version} {published.outcome}",
        )
        create_link_artifact(
            runs.address_of(runs.run_page(published.run, paths.REPORT.name)),
            link_text="The report",
            key="report",
            description=f"What the line found, with charts; the same file is {paths.REPORT}.",
        )


def link_run(run: str | None) -> None:
    """Add a link to the MLflow run to Prefect's page of this flow while it runs."""
    if run is None:
        return
    with connection.failure_as_warning("where the run's page is"), failure_as_warning("the link to the run"):
        create_link_artifact(
            runs.address_of(runs.run_page(run)),
            link_text="This retrain in MLflow",
            key="mlflow",
            description="Charts, files and models of this retrain; without a tracking server of your own, "
            "`mlflow/serve` shows them.",
        )


def run_name() -> str:
    """Return `<model> <local time>`, so that a list of runs shows both."""
    return f"{flow_run.parameters['params'].publish.model} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@flow(
    name="retrain",
    flow_run_name=run_name,
    persist_result=False,
    validate_parameters=False,
    on_completion=[notify],
    on_failure=[notify],
    on_crashed=[notify],
    on_cancellation=[notify],
)
@failure_as_state
def retrain(params: Params) -> decision_record.Published:
    """Make a registered model from the images; finished stages are kept, so an interrupted run resumes after them."""
    end_stale_flows()
    with TagsContext(current_tags={params.publish.model}), runs.parent_run("retrain", flow_tags()) as parent:
        link_run(parent)
        runs.log_settings(parent, asdict(params) | {"unstated": sorted(params.unstated)})
        stages = pipeline.stage_order()
        with terminal.view_on_stderr() as view, live_board([INGEST, *stages, *AFTER], view, Artifacts()) as board:
            return run_steps(params, parent, stages, board)


def run_steps(params: Params, parent: str | None, stages: Sequence[str], board: Board) -> decision_record.Published:
    """Run all steps one after the other, and show each on the board."""
    with board.step(INGEST) as channel:
        digest = outcome(ingest_data(params, channel, return_state=True))
    runs.log_data(parent, params, digest)
    for name in stages:
        with board.step(name, skips=True) as channel:
            outcome(reproduce.with_options(tags=stage_tags(name))(name, parent, channel, return_state=True))
        runs.link_stage(parent, name, pipeline.locked_stage(name))
    params = complete(params)
    with board.step(GATE):
        report = outcome(decide(params, return_state=True))
        board.found(GATE, report.verdict())
    with board.step(PUBLISH):
        published: decision_record.Published = outcome(ship(params, parent, report, return_state=True))
        board.found(PUBLISH, f"version {published.version} {published.outcome}")
    with board.step(REPORT):
        if not write_report(params, published, return_state=True).is_completed():
            board.found(REPORT, "not written")  # the model stays published even if the report fails
    return published


def end_stale_flows() -> None:
    """Mark runs whose process was killed as crashed, which Prefect itself would show as running forever."""
    with get_client(sync_client=True) as client:
        running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running)):
            identity = dict(tag.removeprefix(STAMP).split("=", 1) for tag in run.tags if tag.startswith(STAMP))
            if processes.is_gone(identity):
                state: State[Any] = Crashed(message="its process was killed")
                client.set_flow_run_state(run.id, state, force=True)
                notify(retrain, run, state)


def stage_tags(name: str) -> set[str]:
    """Return the tags by which Prefect's task runs can be filtered."""
    return {"stage", "search"} if name in SEARCHES else {"stage"}


def stamps() -> list[str]:
    """Return Prefect's tags for a flow that this process runs."""
    return [f"{STAMP}{name}={value}" for name, value in processes.tags().items()]


def flow_tags() -> dict[str, str]:
    page = url_for("flow-run", flow_run.id)  # None if the server ends with the flow
    return (
        ({publish.PREFECT: page} if page else {})
        | commits.code_tags()
        | {
            "prefect.flow_run_id": str(flow_run.id),
            "retrain.reason": os.environ.get(REASON, "by hand"),
        }
    )


@ends_in_a_sentence
def main(arguments: Sequence[str] | None = None) -> int:
    commands.parse("retrain", arguments)
    signals.heed_signals()  # otherwise Prefect would die of SIGTERM and leave its server running
    try:
        params = load_params()
        with file_lock(LOCK, Busy(BUSY)), processes.guarded(), tags(params.publish.model, *stamps()):
            require_ready(params)
            stage_run.settle()
            published = retrain(params)
    except RuntimeError as failed:
        if not str(failed).startswith(tuple(UNREACHABLE)):
            raise
        return refuse(1, without_prefect(str(failed)))
    except httpx.HTTPError as failed:  # Prefect's server refuses us, or has ended meanwhile
        reason = connection.reason_of(failed)
        return refuse(1, f"Prefect cannot be used ({reason}); see PREFECT_API_URL and PREFECT_API_AUTH_STRING")
    except KeyboardInterrupt as how:
        code = 143 if isinstance(how, signals.Terminated) else 130
        return refuse(code, "interrupted; start again and the finished stages are not repeated")
    print(publish.summary(params, published))
    return 3 if published.outcome == "refused" else 0


def without_prefect(message: str) -> str:
    """Return the sentence for a Prefect server that does not answer: Prefect's first sentence, and what to do."""
    (remedy,) = [remedy for beginning, remedy in UNREACHABLE.items() if message.startswith(beginning)]
    return f"Prefect cannot be used ({message.splitlines()[0].split('. ')[0].rstrip('.')}); {remedy}"


if __name__ == "__main__":
    commands.run(main)
