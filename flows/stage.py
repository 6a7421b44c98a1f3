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
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path

from components.settings.params import Params
from components.settings.require import require
from flows.checkout import commits, files, ownership, paths, pipeline
from flows.checkout.locks import held
from flows.checkout.roster import ROSTER
from flows.checkout.settings import load_params
from flows.report import notes
from flows.runtime import cost, processes, signals
from flows.runtime.exits import Failure, refuse
from flows.runtime.handover import PARENT_RUN, PREFECT_IDS, REPORT
from flows.runtime.observer import Observer
from flows.runtime.progress import Watched
from flows.runtime.signals import Terminated
from flows.runtime.terminal import watched
from flows.tracking import connection, stage_run
from flows.tracking.runs import Status
from flows.tracking.stage_run import StageRun

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # spinning threads starve a shared machine
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA refuses to be deterministic
}
"""What torch and CUDA read when they start, unless a person has set it; workers inherit it."""


OWN = re.compile(r"[0-9a-f]{64}-")
"""How the names of checkpoints begin: with the stage's key."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputsChanged(Failure):
    """A dependency is no longer what it was when the stage started."""

    code = 4


def main(arguments: list[str] | None = None) -> int:
    """Run the stage that the command line names; returns the exit code."""
    chosen = commands.parse("stage", arguments)
    signals.heed_signals()
    try:
        processes.follow(processes.dvc_above(), processes.end_myself)
    except ProcessLookupError:
        return fail(143, f"{chosen.word}: the DVC that started this stage is gone; start again")
    try:
        run_stage(chosen.word, chosen.variant)
    except ValueError as mistake:
        return fail(2, f"{chosen.word}: {mistake}")
    except InputsChanged as changed:
        return fail(changed.code, f"{chosen.word}: {changed}")
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


def fail(code: int, sentence: str) -> int:
    """Say the sentence, leave it for the flow, and hand the exit code on."""
    if report := os.environ.get(REPORT):
        files.write_json(Path(report), {"code": code, "sentence": sentence})
    return refuse(code, sentence)


def run_stage(word: str, variant: str | None) -> None:
    """Run a stage under an MLflow run of its own."""
    params = load_params()
    setting = ROSTER[word].variants
    known = attrgetter(setting)(params) if setting else (None,)
    named = ", ".join(one or "none" for one in known) or f"none: {setting} is empty"
    require(variant in known, f"{variant or 'none'} is no variant of it; use {named}")
    name = f"{word}@{variant}" if variant else word
    if PREFECT_IDS not in os.environ:
        commits.warn_of_git()  # a flow has said it already
    ownership.require_own_outputs(name)  # of a stage that was started by hand: DVC removes them before
    before = pipeline.stage_inputs(name)
    params = load_params()  # as they were hashed, or are by the end: an edit since the first reading is in both
    stage_run.settle()
    said = {connection.NOTE: notes.note(name, finished=False)}
    run = StageRun(name, parent_run_id=os.environ.get(PARENT_RUN), tags=lineage_tags(before) | said)
    status: Status = "FAILED"
    try:
        run.params(before.get("params", {}).get("params.yaml", {}))
        folder = checkpoint_folder(name, pipeline.stage_key(before))
        with cost.counted(run), folder as checkpoint, watched() as tracker:
            files.sweep(pipeline.output_paths(name))
            ownership.begin(name)
            compute(word, variant, params, Watched(run, tracker), checkpoint)
            ownership.finish(name)
        if difference := pipeline.changed(before, pipeline.stage_inputs(name)):
            raise InputsChanged(f"{', '.join(difference)} changed while the stage ran; run it again")
        run.tags({f"dvc.out.{path}": md5 for path, md5 in pipeline.output_hashes(name).items()})
        run.tags({connection.NOTE: notes.note(name, finished=True)})
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
    busy = ValueError("another process is running this stage in this folder; wait for it to end")
    with held(place.with_suffix(".lock"), busy):
        for stale in place.glob("*"):
            if stale.name != own and OWN.match(stale.name):
                shutil.rmtree(stale)
        yield place / own
        shutil.rmtree(place / own, ignore_errors=True)
        with suppress(OSError):  # there is none, or somebody keeps something in it
            place.rmdir()


def compute(word: str, variant: str | None, params: Params, observe: Observer, checkpoint: Path) -> None:
    """The stage's own work, with torch, where the stage uses it, set up the same everywhere."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    stage = importlib.import_module(f"flows.stages.{word}")
    if "torch" in sys.modules:  # `prepare` does without: to load it takes two seconds
        import torch

        from flows.runtime.devices import be_deterministic

        torch.set_num_threads(params.threads)
        be_deterministic(True)
    own = ([variant] if variant else []) + ([checkpoint] if ROSTER[word].resumes else [])
    stage.run(params.part(stage.Reads), observe, *own)


def lineage_tags(inputs: pipeline.Lock) -> dict[str, str]:
    """What an auditor follows: code, inputs and the flow that asked."""
    flow_run, _, task_run = os.environ.get(PREFECT_IDS, "").partition(" ")
    tags = {
        "stage_key": pipeline.stage_key(inputs),
        "dvc.lock.sha256": pipeline.lock_digest() or "none",
        "prefect.flow_run_id": flow_run,
        "prefect.task_run_id": task_run,
        **commits.code_tags(),
    }
    tags |= {f"dvc.dep.{path}": md5 for path, md5 in pipeline.hashes(inputs, "deps").items()}
    return {key: value for key, value in tags.items() if value}


if __name__ == "__main__":
    commands.run(main)
