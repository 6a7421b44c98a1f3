"""The line from end to end on digits, with a tiny budget: two entry points, one result; nothing done twice or lost.

The tests share two clones: one ran `dvc repro`, the other the Prefect flow. Timings are recorded inputs: the flow's
clone gets DVC's run cache of the two stages that measure time, and computes everything else itself.
"""

import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.benchmarks import kills
from tests.clones import ROOT, environment, fresh_clone, run
from tests.flows.receiver import receiver

pytestmark = pytest.mark.timeout(900)  # a fixture's time counts for the first test that uses it

MEASURE_TIME = ("latency", "evaluate")
COMPUTED = ("prepare", "architecture", "augmentation", "loss", "train@searched", "train@baseline")


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` alone ran every stage."""
    clone = fresh_clone(tmp_path_factory.mktemp("dvc"), ROOT / "tests" / "tiny.yaml")
    run(clone, "-m", "flows.ingest")
    run(clone, "-m", "dvc", "repro")
    return clone


@pytest.fixture(scope="module")
def by_flow(by_dvc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the flow alone ran every stage; only measured times come from the other clone."""
    clone = tmp_path_factory.mktemp("flow")
    subprocess.run(["git", "clone", "-q", by_dvc, clone], check=True)
    carry_measurements(by_dvc, clone)
    with receiver() as (address, arrived):
        done = run(clone, "-m", "flows.retrain", ASSEMBLY_LINE_WEBHOOK=address)
    (clone / "flow.log").write_text(done.stdout + done.stderr)
    (clone / "notified.json").write_text(json.dumps(arrived))
    return clone


def carry_measurements(source: Path, target: Path) -> None:
    """Copy the run-cache entries of the stages that measure time, and the bytes they name."""
    for entry in (source / ".dvc" / "cache" / "runs").glob("*/*/*"):
        lock = yaml.safe_load(entry.read_text())
        if lock["cmd"].split()[-1] in MEASURE_TIME:
            copy_into(source, target, entry)
            for out in lock["outs"]:
                copy_into(source, target, source / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:])


def copy_into(source: Path, target: Path, file: Path) -> None:
    place = target / file.relative_to(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, place)


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def parent_of(clone: Path) -> tuple[MlflowClient, Run]:
    client = MlflowClient(f"sqlite:///{clone}/mlflow/store/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, filter_string="attributes.run_name = 'retrain'")
    return client, runs[-1]


def test_dvc_and_the_flow_give_the_same_lock_byte_for_byte(by_dvc: Path, by_flow: Path) -> None:
    assert (by_dvc / "dvc.lock").read_bytes() == (by_flow / "dvc.lock").read_bytes()


def test_the_flow_computed_every_stage_that_measures_no_time_itself(by_flow: Path) -> None:
    assert set(stages_run((by_flow / "flow.log").read_text())) == set(COMPUTED)


def test_what_evaluate_computes_is_the_same_in_both_clones(by_dvc: Path, by_flow: Path) -> None:
    shutil.copytree(by_flow / "results" / "evaluate", by_flow / "kept")
    run(by_flow, "-m", "flows.stage", "evaluate")
    for name in ("metrics.json", "predictions.csv", "per_class.csv"):
        again = (by_flow / "results" / "evaluate" / name).read_bytes()
        assert again == (by_dvc / "results" / "evaluate" / name).read_bytes(), name
    shutil.rmtree(by_flow / "results" / "evaluate")
    (by_flow / "kept").rename(by_flow / "results" / "evaluate")


def test_searches_and_training_give_the_same_bytes_without_the_test_split(by_flow: Path) -> None:
    hidden = by_flow / "hidden"
    (by_flow / "data" / "prepared" / "test").rename(hidden)
    before = {file: file.read_bytes() for file in searched_files(by_flow)}
    for command in (["architecture"], ["augmentation"], ["loss"], ["train", "searched"]):
        run(by_flow, "-m", "flows.stage", *command)
    hidden.rename(by_flow / "data" / "prepared" / "test")
    assert len(before) > 10
    assert {file: file.read_bytes() for file in searched_files(by_flow)} == before


def searched_files(clone: Path) -> list[Path]:
    folders = ("architecture", "augmentation", "loss", "train/searched")
    return [file for folder in folders for file in sorted((clone / "results" / folder).iterdir())]


def test_repro_a_second_time_runs_nothing(by_dvc: Path, by_flow: Path) -> None:
    for clone in (by_dvc, by_flow):
        before = (clone / "dvc.lock").read_bytes()
        done = run(clone, "-m", "dvc", "repro")
        assert stages_run(done.stdout) == []
        assert "up to date" in done.stdout
        assert (clone / "dvc.lock").read_bytes() == before


def test_the_dvc_commands_of_the_readme_work(by_dvc: Path) -> None:
    assert "accuracy" in run(by_dvc, "-m", "dvc", "metrics", "show").stdout
    settings = by_dvc / "params.yaml"
    committed = settings.read_text()
    settings.write_text(committed.replace("knots: 4", "knots: 6"))
    changed = json.loads(run(by_dvc, "-m", "dvc", "params", "diff", "--json").stdout)
    settings.write_text(committed)
    assert changed["params.yaml"].keys() == {"loss.knots"}
    plots = run(by_dvc, "-m", "dvc", "plots", "show").stdout
    assert "index.html" in plots
    assert (by_dvc / "dvc_plots" / "index.html").stat().st_size > 10_000


def test_every_trunk_reward_of_every_copy_and_every_pool_update_is_in_mlflow(by_flow: Path) -> None:
    client, parent = parent_of(by_flow)
    nested = client.search_runs(
        [parent.info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    by_name = {child.info.run_name: child for child in nested}
    assert set(COMPUTED) <= set(by_name)
    for word in ("augmentation", "loss"):
        with (by_flow / "results" / word / "trunks.csv").open() as file:
            for row in csv.DictReader(file):
                history = client.get_metric_history(by_name[word].info.run_id, f"{word}/reward/{row['copy']}")
                logged = {metric.step: metric.value for metric in history}
                assert logged[int(row["trunk"])] == pytest.approx(float(row["reward"]), nan_ok=True)
    with (by_flow / "results" / "architecture" / "pool.csv").open() as file:
        stages = {int(row["stage"]) for row in csv.DictReader(file)}
    history = client.get_metric_history(by_name["architecture"].info.run_id, "architecture/pool/potential_0")
    assert {metric.step for metric in history} == stages


def test_every_run_carries_its_lineage_and_has_ended(by_flow: Path) -> None:
    client, parent = parent_of(by_flow)
    assert parent.info.status == "FINISHED"
    lock = yaml.safe_load((by_flow / "dvc.lock").read_text())["stages"]
    for child in client.search_runs(
        [parent.info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    ):
        tags, stage = child.data.tags, lock[child.info.run_name]
        assert child.info.status == "FINISHED"
        assert len(tags["stage_key"]) == 64
        assert len(tags["git.commit"]) == 40
        assert tags["prefect.flow_run_id"] == parent.data.tags["prefect.flow_run_id"]
        assert {f"dvc.out.{out['path']}" for out in stage["outs"]} <= set(tags)
        assert all(tags[f"dvc.dep.{dep['path']}"] == dep["md5"] for dep in stage["deps"])


def test_the_model_is_registered_as_champion_and_is_the_file_that_was_evaluated(by_flow: Path) -> None:
    client, _ = parent_of(by_flow)
    champion = client.get_model_version_by_alias("tiny-digits", "champion")
    lock = yaml.safe_load((by_flow / "dvc.lock").read_text())["stages"]["train@searched"]["outs"]
    assert champion.tags["md5"] in {out["md5"] for out in lock}


def test_the_webhook_was_told_once_how_the_flow_ended(by_flow: Path) -> None:
    (told,) = json.loads((by_flow / "notified.json").read_text())
    assert (told["state"], told["outcome"], told["model_version"]) == ("Completed", "published", "1")


def test_the_flow_a_second_time_runs_nothing_and_registers_nothing(by_flow: Path) -> None:
    client, _ = parent_of(by_flow)
    versions = len(client.search_model_versions("name = 'tiny-digits'"))
    done = run(by_flow, "-m", "flows.retrain")
    assert stages_run(done.stdout + done.stderr) == []
    assert len(client.search_model_versions("name = 'tiny-digits'")) == versions
    assert "already" in done.stdout


def test_nothing_written_names_this_machine_or_a_path_on_it(by_flow: Path) -> None:
    words = [str(by_flow).encode(), str(ROOT).encode(), os.uname().nodename.encode()]
    places = [by_flow / "results", by_flow / "data", by_flow / "mlflow" / "store" / "artifacts", by_flow / "dvc.lock"]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    assert len(files) > 30
    for file in files:
        content = file.read_bytes()
        assert not [word for word in words if len(word) > 3 and word in content], file


def test_an_ended_or_killed_flow_leaves_no_process_and_the_next_goes_on_after_the_last_finished_stage(
    by_flow: Path,
) -> None:
    """A changed loss setting makes loss, train and evaluate stale; Ctrl-C and then SIGKILL come while it trains."""
    settings = by_flow / "params.yaml"
    settings.write_text(settings.read_text().replace("knots: 4", "knots: 5").replace("epochs: 2\n", "epochs: 400\n"))
    assert end_while_training(by_flow, signal.SIGINT).endswith(
        "error: interrupted; start again and the finished stages are not repeated\n"
    )
    again = end_while_training(by_flow, signal.SIGKILL)
    assert stages_run(again)[0].startswith("train@")
    settings.write_text(settings.read_text().replace("epochs: 400\n", "epochs: 2\n"))
    done = run(by_flow, "-m", "flows.retrain")
    assert stages_run(done.stdout + done.stderr) == ["train@searched", "train@baseline", "evaluate"]
    assert kills.stuck(by_flow) == 0
    database = sqlite3.connect(by_flow / ".prefect-home" / "prefect.db")
    states = [state for (state,) in database.execute("SELECT state_type FROM flow_run ORDER BY start_time")]
    assert states[-3:] == ["CRASHED", "CRASHED", "COMPLETED"]


def end_while_training(clone: Path, how: signal.Signals) -> str:
    """What the flow printed until it was ended by the signal, with nothing left of it in a few seconds."""
    log = clone / f"{how.name}.log"
    with log.open("w") as output:
        flow = subprocess.Popen(
            [sys.executable, "-m", "flows.retrain"],
            cwd=clone,
            env=environment(clone),
            stdout=output,
            stderr=output,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - background jobs ignore it
        )
        wait_for(lambda: stages_run(log.read_text())[-1:] in (["train@searched"], ["train@baseline"]), flow)
        time.sleep(6)  # into the training itself
        flow.send_signal(how)
        code = flow.wait(60)
    assert code == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[how], log.read_text()[-3000:]
    assert kills.left_after(clone, kills.SECONDS_TO_VANISH) == 0
    return log.read_text()


@pytest.mark.parametrize(("stage", "victim", "share"), [("train@searched", "stage", 0.7), ("loss", "dvc", 0.5)])
def test_a_killed_stage_is_finished_by_the_next_start_with_the_same_bytes_and_records(
    by_dvc: Path, tmp_path: Path, stage: str, victim: str, share: float
) -> None:
    """Two of the moments of `make bench NAME=kills`."""
    row = kills.trial(by_dvc, tmp_path / "trial", stage, victim, share)
    expected = {"identical": True, "orphans": 0, "stuck_runs": 0, "lost_records": 0, "unfinished_files": 0}
    assert {name: row[name] for name in expected} == expected


def wait_for(condition, process: subprocess.Popen[bytes], seconds: float = 150) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("knots: 4", "knotz: 4", "loss.knotz"),
        ("batch_size: 32", "batch_size: 100000", "batch_size"),
        ("latency_ms: 5.0", "latency_ms: 0.000001", "latency_ms"),
    ],
)
def test_bad_input_gives_one_sentence_and_exit_code_2_and_writes_nothing(
    by_dvc: Path, tmp_path: Path, old: str, new: str, says: str
) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(by_dvc, clone)
    settings = clone / "params.yaml"
    settings.write_text(settings.read_text().replace(old, new))
    before = {file: file.read_bytes() for file in (clone / "results" / "architecture").rglob("*") if file.is_file()}
    done = run(clone, "-m", "flows.retrain", check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(set(sentences)) == 1
    assert says in sentences[0]
    assert "Traceback" not in done.stderr
    assert {file: file.read_bytes() for file in before if file.exists()} == before


def test_the_dvc_lock_says_nothing_of_time_or_place(by_dvc: Path) -> None:
    text = json.dumps(yaml.safe_load((by_dvc / "dvc.lock").read_text()))
    assert not re.search(r"20\d\d-\d\d-\d\d|/tmp|/home|/root", text)
