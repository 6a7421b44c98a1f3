"""What every stage shares, around a stage whose work the test decides."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

from components.architecture.network import build_network
from components.architecture.space import default_architecture, space_of
from components.data.store import Classes
from components.settings.params import Params
from components.training.crop_flip import base_augment
from components.training.fit import fit
from components.training.loop import cross_entropy
from flows import stage
from flows.checkout import pipeline, versions
from flows.checkout.files import write_bytes
from flows.checkout.roster import ROSTER
from flows.checkout.settings import load_params
from flows.runtime import handover
from flows.runtime.cost import CORE_MINUTES, MINUTES
from flows.runtime.observer import Observer, Silent
from flows.stages import prepare
from flows.tracking import stage_run
from tests.clones import ROOT
from tests.line_cache import put_empty_store

Work = Callable[[Params, Observer], None]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    pipeline = {
        "prepare": {"cmd": "python -m flows.stage prepare", "deps": ["in.txt"], "params": ["data"], "outs": ["out.txt"]}
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": pipeline}))
    (folder / "in.txt").write_text("in")
    shutil.copy(ROOT / "tests" / "tiny.yaml", folder / "params.yaml")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(versions.dvc("init", "-q"), cwd=folder, check=True)
    return folder


@pytest.fixture
def run_with(
    template: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Work], int]:
    """Run the stage with this work; returns the exit code."""
    folder = tmp_path / "work"
    shutil.copytree(template, folder)
    put_empty_store(folder, tmp_path_factory)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv(handover.REPORT, str(tmp_path / "report.json"))
    handler = signal.getsignal(signal.SIGTERM)

    def run(work: Work) -> int:
        monkeypatch.setattr(prepare, "run", work)
        monkeypatch.setattr(prepare, "Reads", Params)
        try:
            return stage.main(["prepare"])
        finally:
            signal.signal(signal.SIGTERM, handler)

    return run


def write(params: Params, observe: Observer) -> None:
    observe.metrics({"prepare/images": 3.0})
    Path("out.txt").write_text("out")


def test_a_stage_that_is_started_by_hand_overwrites_no_file_of_a_persons(
    run_with: Callable[[Work], int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.txt").write_text("a person's")
    assert run_with(write) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: prepare: out.txt lies where stage prepare writes, is not in DVC's")
    assert Path("out.txt").read_text() == "a person's"
    Path("out.txt").unlink()
    assert run_with(write) == 0
    assert run_with(write) == 0  # its own it writes again
    Path("out.txt").write_text("edited")
    assert run_with(write) == 2
    assert Path("out.txt").read_text() == "edited"


def test_what_git_does_not_say_is_a_warning_of_the_stage_unless_a_flow_has_said_it(
    run_with: Callable[[Work], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc repro` in a folder that git does not trust."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert run_with(write) == 0
    assert "warning: git does not say which code this is (fatal: detected dubious" in capsys.readouterr().err
    _, found, _ = newest_run()
    assert (found["git.commit"], found["git.dirty"]) == ("unknown", "unknown")
    monkeypatch.setenv(handover.PREFECT_IDS, "a b")
    assert run_with(write) == 0
    assert "git does not say" not in capsys.readouterr().err


def newest_run() -> tuple[str, dict[str, str], dict[str, float]]:
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow/store/mlflow.db")
    run = client.search_runs([e.experiment_id for e in client.search_experiments()])[0]
    return run.info.status, run.data.tags, run.data.metrics


def test_a_stage_that_ends_well_leaves_its_lineage(run_with: Callable[[Work], int]) -> None:
    assert run_with(write) == 0
    status, tags, metrics = newest_run()
    assert status == "FINISHED"
    assert tags["dvc.dep.in.txt"] == "13b5bfe96f3e2fe411c9f66f4a582adf"  # md5 of "in"
    assert tags["dvc.out.out.txt"] == "c68271a63ddbc431c307beb7d2918275"  # md5 of "out"
    assert tags["stage_key"] == pipeline.stage_key(pipeline.stage_inputs("prepare"))
    assert metrics.pop(CORE_MINUTES) > 0
    assert metrics.pop(MINUTES) > 0
    assert metrics == {"prepare/images": 3.0}


def test_an_input_that_changes_during_the_run_fails_it(
    run_with: Callable[[Work], int], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(params: Params, observe: Observer) -> None:
        write(params, observe)
        Path("in.txt").write_text("edited meanwhile")

    assert run_with(work) == 4
    assert "in.txt changed while the stage ran; run it again" in capsys.readouterr().err
    assert newest_run()[0] == "FAILED"


EDITING = """
import sys
from pathlib import Path
from flows import stage
from flows.stages import prepare

def work(params, observe):
    Path("out.txt").write_text("out")
    Path("in.txt").write_text("edited meanwhile")

prepare.run = work
sys.exit(stage.main(["prepare"]))
"""


def test_dvc_records_nothing_of_a_stage_whose_input_was_edited_meanwhile(template: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(template, folder)
    (folder / "editing.py").write_text(EDITING)
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text().replace("-m flows.stage prepare", "editing.py"))
    environment = versions.stage_environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        versions.dvc("repro"), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "error: prepare: in.txt changed while the stage ran; run it again" in done.stderr
    assert (folder / "in.txt").read_text() == "edited meanwhile"
    assert not (folder / "dvc.lock").exists()


def test_a_persons_mistake_is_one_sentence_for_them_and_for_the_flow(
    run_with: Callable[[Work], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(params: Params, observe: Observer) -> None:
        raise ValueError("the limit is too low; raise it")

    assert run_with(work) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: prepare: the limit is too low; raise it"
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "code": 2,
        "sentence": "prepare: the limit is too low; raise it",
    }
    assert newest_run()[0] == "FAILED"


def test_a_training_that_diverges_is_one_sentence(
    run_with: Callable[[Work], int], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(params: Params, observe: Observer) -> None:
        classes = Classes(("a", "b"), 8, 1)
        space = space_of(params.architecture, classes)
        network = build_network(space, default_architecture(space), (0.5,), (0.5,), seed=0)
        images, labels = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8), torch.arange(64) % 2
        recipe = replace(params.train.recipe, learning_rate=1e30, warmup=0.0)
        settings = replace(params.train, recipe=recipe, epochs=5)
        list(
            fit(
                network,
                images,
                labels,
                settings=settings,
                augment=base_augment(recipe),
                criterion=cross_entropy(),
                seed=0,
            )
        )

    assert run_with(work) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"error: prepare: the training loss is (nan|inf) at step \d+; lower train\.recipe\..*", said)
    assert newest_run()[0] == "FAILED"


def test_a_full_disk_is_one_sentence_and_leaves_the_old_output_whole(
    run_with: Callable[[Work], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that may write no file larger than 4 MB; MLflow's tables are smaller."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def work(params: Params, observe: Observer) -> None:
        Path("out.txt").write_text("old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, before[1]))
        write_bytes(Path("out.txt"), bytes(8 << 20))

    try:
        assert run_with(work) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: prepare: nothing more can be written here (File too large); make room and run it again"
    )
    assert (Path("out.txt").read_text(), list(Path().glob(".out.txt.*"))) == ("old", [])
    assert newest_run()[0] == "FAILED"


def test_what_a_kill_left_half_written_is_removed(run_with: Callable[[Work], int]) -> None:
    half, other, persons = Path(".out.txt.abc1_fgh"), Path(".in.txt.abc1_fgh"), Path(".out.txt.backup-of-mine")
    for file in (half, other, persons):
        file.touch()
    assert run_with(write) == 0
    assert (half.exists(), other.exists(), persons.exists()) == (False, True, True)


@pytest.fixture
def resumable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's stage is one that is given a checkpoint."""
    monkeypatch.setitem(ROSTER, "prepare", replace(ROSTER["prepare"], resumes=True))


def stop_after(trunks: int) -> Callable[..., None]:
    """Work that leaves one file more in its checkpoint each time it is run, and is done when it left so many."""

    def work(params: Params, observe: Observer, checkpoint: Path) -> None:
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / str(len(list(checkpoint.iterdir())))).touch()
        if len(list(checkpoint.iterdir())) < trunks:
            raise KeyboardInterrupt
        Path("out.txt").write_text("out")

    return work


def checkpoints() -> dict[str, int]:
    """Files in the checkpoint of each stage key."""
    return {
        folder.name.partition("-")[0]: len(list(folder.iterdir())) for folder in Path("checkpoints").glob("prepare/*")
    }


def test_an_interrupted_stage_finds_its_checkpoint_again_and_a_finished_one_leaves_none(
    run_with: Callable[[Work], int], resumable: None
) -> None:
    assert run_with(stop_after(3)) == 130
    assert run_with(stop_after(3)) == 130
    assert checkpoints() == {pipeline.stage_key(pipeline.stage_inputs("prepare")): 2}
    assert run_with(stop_after(3)) == 0
    assert checkpoints() == {}


def test_with_another_input_an_interrupted_stage_starts_afresh(
    run_with: Callable[[Work], int], resumable: None
) -> None:
    assert run_with(stop_after(3)) == 130
    Path("in.txt").write_text("edited")
    Path("checkpoints/prepare/mine").mkdir()
    assert run_with(stop_after(3)) == 130
    assert checkpoints() == {pipeline.stage_key(pipeline.stage_inputs("prepare")): 1, "mine": 0}
    assert run_with(stop_after(1)) == 0
    assert checkpoints() == {"mine": 0}


def test_torch_starts_with_what_a_gpu_needs_to_be_deterministic_and_a_persons_choice_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    seen = []

    def work(params: Params, observe: Observer) -> None:
        seen.extend([os.environ[name] for name in ("CUBLAS_WORKSPACE_CONFIG", "OMP_WAIT_POLICY")])
        seen.append(torch.are_deterministic_algorithms_enabled())

    monkeypatch.setattr(prepare, "run", work)
    stage.compute("prepare", None, load_params(ROOT / "tests" / "tiny.yaml"), Silent(), Path("checkpoint"))
    assert seen == [":4096:8", "active", True]


def test_sigterm_ends_the_mlflow_run_as_killed(run_with: Callable[[Work], int]) -> None:
    def work(params: Params, observe: Observer) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    assert run_with(work) == 143
    assert newest_run()[0] == "KILLED"


def test_a_bug_keeps_its_traceback_and_ends_the_run(run_with: Callable[[Work], int]) -> None:
    def work(params: Params, observe: Observer) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_with(work)
    assert newest_run()[0] == "FAILED"


def test_bad_settings_stop_a_stage_before_it_starts(
    run_with: Callable[[Work], int], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("mlflow")
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("sigma", "sigmo") + "\nnoise: 1\n")
    assert run_with(write) == 2
    assert "noise" in capsys.readouterr().err
    assert not Path("mlflow").exists()


def test_a_second_process_does_not_share_the_checkpoint_of_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.checkout.paths.CHECKPOINTS", tmp_path / "checkpoints")
    with stage.checkpoint_folder("loss", "key") as folder:
        folder.mkdir(parents=True)
        with (
            pytest.raises(ValueError, match="another process is running this stage"),
            stage.checkpoint_folder("loss", "key"),
        ):
            pass
        assert folder.exists()
    assert not folder.exists()


def test_torch_starts_after_the_stage_has_set_its_environment_up() -> None:
    code = "import sys; import flows.stage; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0


def test_settings_that_are_saved_while_dvc_hashes_are_those_that_are_computed_with(
    run_with: Callable[[Work], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, seen = pipeline.stage_inputs, []

    def saved_meanwhile(name: str) -> pipeline.Lock:
        if not seen:
            seen.append(0)
            settings = Path("params.yaml")
            settings.write_text(settings.read_text().replace("seed: 1\n", "seed: 7\n", 1))
        return hashed(name)

    monkeypatch.setattr(pipeline, "stage_inputs", saved_meanwhile)

    def work(params: Params, observe: Observer) -> None:
        write(params, observe)
        seen.append(params.seed)

    assert run_with(work) == 0
    assert seen == [0, 7]


HOLDING = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], isolation_level=None) as database:
    database.execute("BEGIN EXCLUSIVE")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_store_that_another_process_locks_costs_no_record(
    run_with: Callable[[Work], int], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """From the middle of the stage to after its end; the next one hands over what waits."""
    holders: list[subprocess.Popen[str]] = []

    def work(params: Params, observe: Observer) -> None:
        command = [sys.executable, "-c", HOLDING, "mlflow/store/mlflow.db"]
        holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert holders[0].stdout is not None
        assert holders[0].stdout.readline() == "held\n"
        write(params, observe)

    assert run_with(work) == 0
    assert "database is locked" in caplog.text
    assert Path("out.txt").read_text() == "out"
    holders[0].communicate("")
    assert newest_run()[0] == "RUNNING"
    stage_run.settle()
    status, tags, metrics = newest_run()
    assert status == "FINISHED"
    assert metrics["prepare/images"] == 3.0
    assert tags["dvc.out.out.txt"] == "c68271a63ddbc431c307beb7d2918275"  # md5 of "out"
    assert list(Path("mlflow/spool").iterdir()) == []
