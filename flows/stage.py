"""Run one stage of dvc.yaml: `python -m flows.stage <word> [variant]`.

What every stage shares: settings checked first, its inputs hashed before and after, an MLflow run that always ends,
one sentence and a documented exit code for a person's mistake.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("stage")  # before the libraries: help waits for none of them

import errno
import importlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from components.settings.params import Params
from components.settings.require import require
from flows import cost, files, lifeline, notes, ownership, paths, tracking, versions
from flows.observer import Observer
from flows.progress import Watched
from flows.settings import load_params
from flows.terminal import watched
from flows.tracking import StageRun, Status

RESUMED = ("architecture", "augmentation", "loss", "train")
"""Stages that go on where they were killed: at a stage or trunk of the search, at an epoch of the training."""
REPORT = "ASSEMBLY_LINE_REPORT"
"""Environment variable: the file in which a failing stage leaves its exit code and sentence for the flow."""
PARENT_RUN = "ASSEMBLY_LINE_PARENT_RUN"
"""Environment variable: the MLflow run of the flow that this stage is part of."""
PREFECT_IDS = "ASSEMBLY_LINE_PREFECT"
"""Environment variable: `<flow run id> <task run id>`."""


ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # spinning threads starve a shared machine
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA refuses to be deterministic
}
"""What torch and CUDA read when they start, unless a person has set it; workers inherit it."""


OWN = re.compile(r"[0-9a-f]{64}-")
"""How the names of checkpoints begin: with the stage's key."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputsChanged(RuntimeError):
    """A dependency is no longer what it was when the stage started."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C so that everything on the way out runs."""


def main(arguments: list[str] | None = None) -> int:
    """Run the stage that the command line names; returns the exit code."""
    chosen = commands.parse("stage", arguments)
    heed_signals()
    try:
        lifeline.follow(lifeline.dvc_above(), lifeline.end_myself)
    except ProcessLookupError:
        return fail(143, f"{chosen.word}: the DVC that started this stage is gone; start again")
    try:
        run_stage(chosen.word, chosen.variant)
    except ValueError as mistake:
        return fail(2, f"{chosen.word}: {mistake}")
    except InputsChanged as changed:
        return fail(4, f"{chosen.word}: {changed}")
    except FloatingPointError as diverged:
        cure = "lower train.recipe.learning_rate, or raise train.recipe.warmup"
        return fail(2, f"{chosen.word}: {diverged}; {cure}")
    except OSError as failed:
        if failed.errno not in DISK_FULL:
            raise
        sentence = f"nothing more can be written here ({failed.strerror}); make room and run it again"
        return fail(2, f"{chosen.word}: {sentence}")
    except Terminated:
        return 143
    except KeyboardInterrupt:
        return 130
    return 0


def heed_signals() -> None:
    """Ctrl-C and SIGTERM end this process in order, also where it was started in the background, deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminate)


def terminate(signum: int, frame: FrameType | None) -> None:
    """Once: what runs on the way out is not interrupted again."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def fail(code: int, sentence: str) -> int:
    """Say the sentence, leave it for the flow, and hand the exit code on."""
    print(f"error: {sentence}", file=sys.stderr)
    if report := os.environ.get(REPORT):
        files.write_json(Path(report), {"code": code, "sentence": sentence})
    return code


def run_stage(word: str, variant: str | None) -> None:
    """Run a stage under an MLflow run of its own."""
    params = load_params()
    known = {"train": params.train.variants, "budget": params.evaluate.budgets}.get(word, (None,))
    named = ", ".join(one or "none" for one in known) or "none: evaluate.budgets is empty"
    require(variant in known, f"{variant or 'none'} is no variant of it; use {named}")
    name = f"{word}@{variant}" if variant else word
    if PREFECT_IDS not in os.environ:
        versions.warn_of_git()  # a flow has said it already
    ownership.require_own_outputs(name)  # of a stage that was started by hand: DVC removes them before
    before = versions.stage_inputs(name)
    params = load_params()  # as they were hashed, or are by the end: an edit since the first reading is in both
    tracking.settle()
    said = {tracking.NOTE: notes.note(name, finished=False)}
    run = StageRun(name, parent_run_id=os.environ.get(PARENT_RUN), tags=lineage_tags(before) | said)
    status: Status = "FAILED"
    try:
        run.params(before.get("params", {}).get("params.yaml", {}))
        folder = checkpoint_folder(name, versions.stage_key(before))
        with cost.counted(run), folder as checkpoint, watched() as tracker:
            files.sweep(versions.output_paths(name))
            ownership.begin(name)
            compute(word, variant, params, Watched(run, tracker), checkpoint)
            ownership.finish(name)
        if difference := versions.changed(before, versions.stage_inputs(name)):
            raise InputsChanged(f"{', '.join(difference)} changed while the stage ran; run it again")
        run.tags({f"dvc.out.{path}": md5 for path, md5 in versions.output_hashes(name).items()})
        run.tags({tracking.NOTE: notes.note(name, finished=True)})
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.end(status)


@contextmanager
def checkpoint_folder(name: str, key: str) -> Iterator[Path]:
    """Where a stage leaves what it finished until all is done; what other inputs left there goes first.

    Other versions of torch and numpy are other inputs. Raises `ValueError` while another process runs the stage here.
    """
    place = paths.CHECKPOINTS / name
    own = f"{key}-{'-'.join(version(library) for library in ('torch', 'numpy'))}"
    paths.CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place.with_suffix(".lock"), timeout=0):
            for stale in place.glob("*"):
                if stale.name != own and OWN.match(stale.name):
                    shutil.rmtree(stale)
            yield place / own
            shutil.rmtree(place / own, ignore_errors=True)
            with suppress(OSError):  # there is none, or somebody keeps something in it
                place.rmdir()
    except Timeout:
        raise ValueError("another process is running this stage in this folder; wait for it to end") from None


def compute(word: str, variant: str | None, params: Params, observe: Observer, checkpoint: Path) -> None:
    """The stage's own work, with torch, where the stage uses it, set up the same everywhere."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    stage = importlib.import_module(f"flows.stages.{word}")
    if "torch" in sys.modules:  # `prepare` does without: to load it takes two seconds
        import torch

        from flows.devices import be_deterministic

        torch.set_num_threads(params.threads)
        be_deterministic(True)
    own = ([variant] if variant else []) + ([checkpoint] if word in RESUMED else [])
    stage.run(params, observe, *own)


def lineage_tags(inputs: versions.Lock) -> dict[str, str]:
    """What an auditor follows: code, inputs and the flow that asked."""
    flow_run, _, task_run = os.environ.get(PREFECT_IDS, "").partition(" ")
    tags = {
        "stage_key": versions.stage_key(inputs),
        "dvc.lock.sha256": versions.lock_digest() or "none",
        "prefect.flow_run_id": flow_run,
        "prefect.task_run_id": task_run,
        **versions.code_tags(),
    }
    tags |= {f"dvc.dep.{path}": md5 for path, md5 in versions.hashes(inputs, "deps").items()}
    return {key: value for key, value in tags.items() if value}


if __name__ == "__main__":
    commands.run(main)
