"""The Prefect flow: ingest -> every stage of dvc.yaml, in DVC's order -> gate -> publish.

Prefect decides when and how a stage runs, DVC whether it does: a task is one `dvc repro -s <stage>` in a process
group of its own, and takes names and ids only.

Exit codes: 0 published or already champion, 1 a stage failed, 2 bad input, 3 refused by the gate,
5 another retrain is running here, 130 interrupted (start again: finished stages are not repeated).
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from filelock import FileLock, Timeout
from prefect import State, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run, task_run
from prefect.states import Failed

from components.params import Params
from flows import files, ingest, paths, publish, stage, tracking, versions
from flows.gate import GateReport
from flows.registry import RegistryError
from flows.settings import load_params

P = ParamSpec("P")
R = TypeVar("R")

LOCK = Path(".dvc/tmp/retrain.lock")
PATIENCE = 10.0
"""Seconds a stage gets to end by itself after an interruption."""


class StageFailed(RuntimeError):
    """A stage ended with an error; it said why."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


EXPECTED = (ValueError, OSError, StageFailed, RegistryError)
"""What may go wrong without a bug in the line."""


def stated(step: Callable[P, R]) -> Callable[P, R]:
    """An expected failure becomes a Failed state with its sentence; Prefect logs a traceback of whatever is raised."""

    @wraps(step)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return step(*arguments, **named)
        except EXPECTED as mistake:
            return Failed(message=str(mistake), data=mistake)  # type: ignore[return-value]  # Prefect's protocol

    return run


def outcome(state: State) -> Any:
    """What the task returned; raises what made it fail."""
    result = state.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return result


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="ingest")
@stated
def ingest_data(params: Params) -> str:
    """Source -> validated data/raw -> a DVC data version; returns its digest."""
    print(ingest.ingest(params).sentence())
    return versions.data_digest(paths.RAW_DVC)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{name}")
@stated
def reproduce(name: str, parent_run: str | None) -> None:
    """`dvc repro -s <stage>`; the stage logs to an MLflow run nested in the parent."""
    ids = f"{flow_run.id} {task_run.id}"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        environment = versions.stage_environment() | {stage.REPORT: str(report), stage.PREFECT_IDS: ids}
        if parent_run:
            environment[stage.PARENT_RUN] = parent_run
        code = run_group(versions.dvc("--wait-for-lock", "repro", "--single-item", name), environment)
        if code != 0:
            raise failure_of(name, report)


def failure_of(name: str, report: Path) -> StageFailed:
    """What the stage left in its report; a stage that was killed left none."""
    if not report.exists():
        return StageFailed(1, f"stage {name} failed; what it printed is above")
    said = files.read_json(report)
    return StageFailed(said["code"], said["sentence"])


def run_group(command: list[str], environment: dict[str, str]) -> int:
    """Run a command in a process group of its own; whatever ends us ends the whole group first."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to stop as Ctrl-C would (DVC then releases its locks), then insist."""
    for how, seconds in ((signal.SIGINT, PATIENCE), (signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="gate")
@stated
def decide(params: Params) -> GateReport:
    """Every check with its value and threshold."""
    return publish.judge(params)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="publish")
@stated
def ship(params: Params, parent_run: str | None, report: GateReport) -> publish.Published:
    """Register the model and, if the gate let it through, move the champion alias."""
    published = publish.publish(params, parent_run, report)
    create_markdown_artifact(published.report.to_markdown(), key="gate", description=published.outcome)
    return published


@flow(name="retrain", persist_result=False, validate_parameters=False)
@stated
def retrain(params: Params) -> publish.Published:
    """Images in, a registered model out; every finished stage is kept, so an interrupted run goes on where it was."""
    with tracking.parent_run("retrain", lineage()) as parent:
        digest = outcome(ingest_data(params, return_state=True))
        tracking.log_data(parent, params, digest)
        for name in versions.stage_order():
            outcome(reproduce(name, parent, return_state=True))
            tracking.link_stage(parent, name, versions.locked_stage(name))
        report = outcome(decide(params, return_state=True))
        published: publish.Published = outcome(ship(params, parent, report, return_state=True))
        return published


def lineage() -> dict[str, str]:
    commit, dirty = versions.commit()
    return {"git.commit": commit or "none", "git.dirty": str(dirty).lower(), "prefect.flow_run_id": str(flow_run.id)}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One retrain at a time in one checkout."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(LOCK, timeout=0):
        yield


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flows.retrain",
        description="Ingest the data, run every stage that is out of date, and publish the model if the gate allows.",
        epilog="settings: params.yaml; example: python -m flows.retrain",
    )
    parser.parse_args(arguments)
    try:
        params = load_params()
        with alone():
            published = retrain(params)
    except Timeout:
        return refuse(5, "another retrain is running in this folder; wait for it, or stop it with Ctrl-C there")
    except StageFailed as failed:
        return refuse(failed.code, str(failed))
    except RegistryError as failed:
        return refuse(1, str(failed))
    except (ValueError, OSError) as mistake:
        return refuse(2, str(mistake))
    except KeyboardInterrupt:
        return refuse(130, "interrupted; start again and the finished stages are not repeated")
    print(publish.summary(params, published))
    return 3 if published.outcome == "refused" else 0


def refuse(code: int, sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
