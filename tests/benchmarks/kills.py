"""Killed anywhere, nothing lost: stages of the tiny line are killed at random moments and finished by the next start.

Each trial is a copy of a clone whose line ran undisturbed. In it one stage is run anew, and a process of it killed with
SIGKILL after a random share of the time that the stage took undisturbed. What is looked at: whether anything outlives
the kill, whether the next start ends with the same bytes, which runs then still say RUNNING, and which records of the
undisturbed run the finished one lacks or holds twice.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import yaml
from mlflow import MlflowClient

from flows.runtime import processes
from flows.runtime.cost import CORE_MINUTES, MINUTES
from tests.benchmarks.harness import Row, markdown
from tests.clones import ROOT, environment, fresh_clone, run

SEEDS = (1, 2, 3)
STAGES = ("prepare", "architecture", "augmentation", "loss", "train@searched", "train@baseline")
"""Those that measure no time: their bytes are determined."""
VICTIMS = ("stage", "dvc", "flow")
SHELLS = ("sh", "bash", "dash", "zsh")
SECONDS_TO_VANISH = 15.0
"""Everything that worked for the victim has to be gone by then."""


def rows() -> Iterator[Row]:
    """Every stage and victim, at a moment a seed."""
    with tempfile.TemporaryDirectory() as name:
        calm = fresh_clone(Path(name) / "calm", ROOT / "tests" / "tiny.yaml")
        run(calm, "-m", "flows.ingest")
        run(calm, "-m", "dvc", "repro")
        for seed in SEEDS:
            moments = np.random.default_rng(seed).uniform(size=(len(STAGES), len(VICTIMS)))
            for stage, shares in zip(STAGES, moments.tolist(), strict=True):
                for victim, share in zip(VICTIMS, shares, strict=True):
                    # a folder of its own: MLflow keeps its connection to a database that was removed
                    folder = Path(name) / f"{seed}-{stage}-{victim}"
                    yield {"seed": seed, **trial(calm, folder, stage, victim, share)}
                    shutil.rmtree(folder)


def trial(calm: Path, folder: Path, stage: str, victim: str, share: float) -> Row:
    """Kill `victim` after `share` of the stage, start again in the same way, and look."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(calm, folder, ignore=shutil.ignore_patterns("store", ".prefect-home"))
    reference = logged(calm, stage)
    forget(folder, stage)
    command = ["flows.retrain"] if victim == "flow" else ["dvc", "repro", "--single-item", stage]
    seconds = share * took(calm, stage)
    killed = kill_during(folder, command, stage, victim, seconds)
    orphans = left_after(folder, SECONDS_TO_VANISH)
    run(folder, "-m", *command)
    return {
        "stage": stage,
        "victim": victim,
        "moment": round(share, 3),
        "killed": killed,
        "identical": outputs(folder, stage) == outputs(calm, stage),
        "orphans": orphans,
        "stuck_runs": stuck(folder),
        "lost_records": differences(reference, logged(folder, stage)) + len(list(folder.glob("mlflow/spool/*.jsonl"))),
        "unfinished_files": len(list((folder / "results").rglob(".*"))),
    }


def forget(folder: Path, stage: str) -> None:
    """As if the stage had never run: no entry in dvc.lock, no outputs, no run cache."""
    lock = folder / "dvc.lock"
    values = yaml.safe_load(lock.read_text())
    for out in values["stages"].pop(stage)["outs"]:
        place = folder / out["path"]
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
    lock.write_text(yaml.safe_dump(values, sort_keys=False))
    shutil.rmtree(folder / ".dvc" / "cache" / "runs")


def kill_during(folder: Path, command: Sequence[str], stage: str, victim: str, seconds: float) -> bool:
    """Whether there was still something to kill: a stage may be faster than it was."""
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder, env=environment(folder), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            return kill_when_due(folder, process, stage, victim, seconds)
        finally:
            process.wait(600)


def kill_when_due(folder: Path, process: "subprocess.Popen[bytes]", stage: str, victim: str, seconds: float) -> bool:
    word = stage.replace("@", " ")
    while not (found := working(folder, f"flows.stage {word}")):
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    time.sleep(seconds)
    victims = {"stage": found, "dvc": working(folder, "-m dvc"), "flow": [psutil.Process(process.pid)]}[victim]
    killed = False
    for one in victims:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
            killed = True
    return killed


def working(folder: Path, words: str = "") -> list[psutil.Process]:
    """The living processes that work in the folder and have the words in their command line; shells are not counted."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            line = process.cmdline()
            here = Path(process.cwd()).resolve() == folder.resolve() and processes.alive(process)
            # a process that is ending has no command line any more
            if here and line and words in " ".join(line) and Path(line[0]).name not in SHELLS:
                found.append(process)
    return found


def left_after(folder: Path, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while (left := working(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return len(left)


def client_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow/store/mlflow.db")


def runs_of(folder: Path, condition: str) -> list[str]:
    client = client_of(folder)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [found.info.run_id for found in client.search_runs(experiments, condition)]


def stuck(folder: Path) -> int:
    return len(runs_of(folder, "attributes.status = 'RUNNING'"))


def logged(folder: Path, stage: str) -> Counter[tuple[str, int, str]]:
    """(name, step, value) of every record of the stage's newest finished run."""
    finished = runs_of(folder, f"attributes.status = 'FINISHED' and attributes.run_name = '{stage}'")
    client = client_of(folder)
    names = client.get_run(finished[0]).data.metrics
    return Counter(
        (name, metric.step, repr(metric.value))
        for name in names
        if name not in (CORE_MINUTES, MINUTES)  # no run takes the same time twice
        for metric in client.get_metric_history(finished[0], name)
    )


def differences(reference: Counter[tuple[str, int, str]], found: Counter[tuple[str, int, str]]) -> int:
    return ((reference - found) + (found - reference)).total()


def took(folder: Path, stage: str) -> float:
    """Seconds of the stage's undisturbed run; its start, which is not tracked, is as long as it takes to see it."""
    (first, *_) = runs_of(folder, f"attributes.status = 'FINISHED' and attributes.run_name = '{stage}'")
    info = client_of(folder).get_run(first).info
    return float(info.end_time - info.start_time) / 1000


def outputs(folder: Path, stage: str) -> object:
    """Hashes of what the stage has written, as dvc.lock says."""
    return yaml.safe_load((folder / "dvc.lock").read_text())["stages"][stage]


def table(rows: Sequence[Row]) -> str:
    """Of the trials in which there was still something to kill."""

    def total(of: Sequence[Row], what: str) -> int:
        return sum(int(str(row[what])) for row in of)

    lines = []
    for stage in STAGES:
        for victim in VICTIMS:
            of = [row for row in rows if (row["stage"], row["victim"]) == (stage, victim) and row["killed"]]
            same = sum(bool(row["identical"]) for row in of)
            counted = [total(of, what) for what in ("orphans", "stuck_runs", "lost_records", "unfinished_files")]
            lines.append([stage, victim, len(of), f"{same} of {len(of)}", *counted])
    header = ["stage", "killed process", "kills", "same bytes after the next start", "orphans", "stuck runs"]
    return markdown([*header, "lost or doubled records", "unfinished files"], lines)
