"""Run one stage of dvc.yaml: `python -m flows.stage <word> [variant]`.

It does what all stages share: check the settings, hash the inputs before and after, keep an MLflow run that always
ends, and turn a person's mistake into one sentence and a documented exit code.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("stage")  # before the slow imports, so that --help answers at once

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
from flows.checkout.locks import file_lock
from flows.checkout.roster import ROSTER
from flows.checkout.settings import load_params
from flows.report import notes
from flows.runtime import cost, processes, signals
from flows.runtime.exits import Failure, refuse
from flows.runtime.handover import PARENT_RUN, PREFECT_IDS, REPORT
from flows.runtime.observer import Observer
from flows.runtime.progress import ShownObserver
from flows.runtime.signals import Terminated
from flows.runtime.terminal import open_tracker
from flows.tracking import connection, stage_run
from flows.tracking.runs import Status
from flows.tracking.stage_run import StageRun

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # spinning threads starve a shared machine
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA refuses to be deterministic
}
"""Environment variables for the start of torch and CUDA, unless a person has set them; workers inherit them."""


OWN = re.compile(r"[0-9a-f]{64}-")
"""Matches the beginning of a checkpoint's name, which is the stage's key."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputsChanged(Failure):
    """A dependency has changed since the stage started."""

    code = 4


def main(arguments: list[str] | None = None) -> int:
    """Run the stage that the command line names, and return the exit code."""
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
    """Print the sentence, leave it for the flow, and return the exit code."""
    if report := os.environ.get(REPORT):
        files.write_json(Path(report), {"code": code, "sentence": sentence})
    return refuse(code, sentence)


def run_stage(word: str, variant: str | None) -> None:
    """Run a stage in its own MLflow run.

    Raises ValueError if its inputs cannot be used, InputsChanged if they changed while it ran.
    """
    params = load_params(planned=not ROSTER[word].plans)
    setting = ROSTER[word].variants
    known = attrgetter(setting)(params) if setting else (None,)
    named = ", ".join(one or "none" for one in known) or f"none: {setting} is empty"
    require(variant in known, f"{variant or 'none'} is no variant of it; use {named}")
    name = f"{word}@{variant}" if variant else word
    if PREFECT_IDS not in os.environ:
        commits.warn_of_git()  # a flow has already warned
    ownership.require_own_outputs(name)  # for a stage started by hand: DVC itself removes the outputs before a run
    before = pipeline.stage_inputs(name)
    params = load_params(
        planned=not ROSTER[word].plans
    )  # again, after hashing: an edit since the first reading is then in the hash as well
    stage_run.settle()
    note_tags = {connection.NOTE: notes.note(name, finished=False)}
    run = StageRun(name, parent_run_id=os.environ.get(PARENT_RUN), tags=lineage_tags(before) | note_tags)
    status: Status = "FAILED"
    try:
        run.params(before.get("params", {}).get("params.yaml", {}))
        folder = checkpoint_folder(name, pipeline.stage_key(before))
        with cost.record_cost(run), folder as checkpoint, open_tracker() as tracker:
            files.sweep(pipeline.output_paths(name))
            ownership.begin(name)
            compute(word, variant, params, ShownObserver(run, tracker), checkpoint)
            ownership.finish(name)
        if difference := pipeline.changed_inputs(before, pipeline.stage_inputs(name)):
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
    """Yield the folder for a stage's checkpoint, which is deleted once the stage is done.

    Checkpoints of other inputs, which include the versions of torch and numpy, are deleted first. Raises `ValueError`
    while another process runs the stage here.
    """
    place = paths.CHECKPOINTS / name
    own = f"{key}-{'-'.join(version(library) for library in ('torch', 'numpy'))}"
    busy = ValueError("another process is running this stage in this folder; wait for it to end")
    with file_lock(place.with_suffix(".lock"), busy):
        for stale in place.glob("*"):
            if stale.name != own and OWN.match(stale.name):
                shutil.rmtree(stale)
        yield place / own
        shutil.rmtree(place / own, ignore_errors=True)
        with suppress(OSError):  # the folder is missing, or a person keeps something in it
            place.rmdir()


def compute(word: str, variant: str | None, params: Params, observe: Observer, checkpoint: Path) -> None:
    """Do the stage's own work; if it uses torch, set torch up in the same way for every stage."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    stage = importlib.import_module(f"flows.stages.{word}")
    if "torch" in sys.modules:  # `prepare` does not need it, and loading it takes two seconds
        import torch

        from flows.runtime.devices import be_deterministic

        torch.set_num_threads(params.threads)
        be_deterministic(True)
    own = ([variant] if variant else []) + ([checkpoint] if ROSTER[word].resumes else [])
    stage.run(params.part(stage.Reads), observe, *own)


def lineage_tags(inputs: pipeline.Lock) -> dict[str, str]:
    """Return the tags that an audit follows: the code, the inputs, and the flow that started the stage."""
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
