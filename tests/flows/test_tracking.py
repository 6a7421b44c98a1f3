"""What happened is in MLflow, or one warning says that it is not; the registry holds every file once."""

import dataclasses
import json
import logging
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pytest
from jaxtyping import Float
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import UNAUTHENTICATED
from onnx import TensorProto, helper, numpy_helper

from components.shipping.evaluation import onnx_logits
from flows.checkout import files, paths, pipeline, versions
from flows.checkout.settings import load_params
from flows.runtime.cost import CORE_MINUTES
from flows.runtime.observer import Recorder
from flows.settings import PRESETS
from flows.tracking import connection, models, readiness, runs, stage_run
from flows.tracking.connection import connect
from flows.tracking.models import Candidate
from flows.tracking.runs import Status
from flows.tracking.spool import Spool
from flows.tracking.stage_run import StageRun

ROOT = Path(__file__).parents[2]
SIDE = 4
PARAMS = load_params(PRESETS / "digits.yaml")


def linear_model(weights: Float[np.ndarray, "p k"], names: tuple[str, ...], side: int = SIDE) -> bytes:
    """An ONNX file with the shipping file's interface: logits are pixels times weights."""
    count = weights.shape[1]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", side, side, 1])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", count]) for n in ("logits", "probabilities")],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"classes": json.dumps(names), "size": str(side), "channels": "1"})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def random_model(seed: int) -> bytes:
    return linear_model(np.random.default_rng(seed).normal(size=(SIDE**2, 3)), ("a", "b", "c"))


def candidate(model: bytes) -> Candidate:
    example = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 1), dtype=np.uint8)
    return Candidate(model=model, example=example, requirements=("numpy",), providers=("CPUExecutionProvider",))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose mlflow/store is created once: the first tables take seconds."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(autouse=True)
def workspace(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return store


@pytest.fixture
def without_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which mlflow/store cannot be made."""
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/store").write_text("no folder")
    monkeypatch.chdir(tmp_path)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def started(name: str, tags: dict[str, str] | None = None, parent: str | None = None) -> tuple[StageRun, str]:
    run = StageRun(name, parent, tags)
    assert run.run_id is not None
    return run, run.run_id


def test_the_store_is_a_wal_database_in_the_checkout_and_the_environment_is_left_alone(workspace: Path) -> None:
    started("prepare")
    database = sqlite3.connect(workspace / "mlflow/store/mlflow.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.tracking_uri() == f"sqlite:///{workspace}/mlflow/store/mlflow.db"
    assert not (workspace / "mlruns").exists()
    assert not (workspace / "mlflow.db").exists()


def test_a_stage_run_holds_params_metrics_by_step_tags_and_files(workspace: Path) -> None:
    _, parent = started("retrain")
    run, run_id = started("loss", {"stage_key": "k", "git.commit": "abc"}, parent)
    observer: Recorder = run
    run.params({"seed": 1, "loss": {"online": {"trunks": 3}}, "train.recipe": {"flip": False, "stages": [[1, 2]]}})
    for step in range(3):
        observer.metrics({"loss/reward/copy_0": step / 2, "loss/reward/copy_1": float("nan")}, step)
    (workspace / "trunks.csv").write_text("trunk\n0\n")
    observer.file(Path("trunks.csv"))
    run.tags({"dvc.out.results/loss": "md5"})
    run.end("FINISHED")
    found, client = connect().get_run(run_id), connect()
    assert found.info.status == "FINISHED"
    assert found.data.params == {
        "seed": "1",
        "loss.online.trunks": "3",
        "train.recipe.flip": "false",
        "train.recipe.stages": "[[1, 2]]",
    }
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss/reward/copy_0")] == [
        (0, 0),
        (1, 0.5),
        (2, 1),
    ]
    assert np.isnan(client.get_metric_history(run_id, "loss/reward/copy_1")[2].value)
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert (found.data.tags["stage_key"], found.data.tags["dvc.out.results/loss"]) == ("k", "md5")
    assert [file.path for file in client.list_artifacts(run_id)] == ["trunks.csv"]


def test_a_step_is_one_call_to_mlflow_however_many_numbers_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_run, "SLOW", 1e9)
    run, run_id = started("augmentation")
    calls: list[int] = []
    real = MlflowClient.log_batch

    def counted(client: MlflowClient, run: str, **parts: Any) -> None:
        calls.append(len(parts["metrics"]))
        real(client, run, **parts)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    run.metrics({f"m/{index}": index for index in range(40)}, step=1)
    assert calls == [40]
    run.metrics({f"n/{index}": index for index in range(1500)})
    assert calls == [40, 1000, 500]
    assert len(connect().get_run(run_id).data.metrics) == 1540


def test_without_a_store_a_stage_does_its_work_and_one_line_says_that_nothing_is_recorded(
    without_store: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = StageRun("latency", None, {"stage_key": "k"})
    run.params({"seed": 1})
    run.metrics({"latency/ms": 1.0})
    paths.PARAMS.write_text("seed: 1")
    run.file(paths.PARAMS)
    assert run.run_id is None
    assert len(warnings_of(caplog)) == 1
    assert warnings_of(caplog)[0].startswith("warning: MLflow takes no records of latency at the moment (")
    assert "\n" not in warnings_of(caplog)[0]
    run.end("FINISHED")
    assert warnings_of(caplog)[1:] == [
        "warning: 4 records of latency wait in mlflow/spool; the next stage or flow hands them over"
    ]


def test_without_a_store_a_flow_goes_on_without_a_parent_run(
    without_store: None, caplog: pytest.LogCaptureFixture
) -> None:
    with runs.parent_run("retrain", {}) as parent:
        assert parent is None
        runs.log_data(parent, PARAMS, "md5")
        runs.link_stage(parent, "prepare", {"cmd": "x"})
        runs.archive(parent, [paths.PARAMS])
    assert len(warnings_of(caplog)) == 1


def test_records_that_a_failing_tracker_did_not_take_arrive_later_once_and_with_their_own_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, run_id = started("augmentation")
    offered: list[str] = []

    def down(*_: Any, **__: Any) -> None:
        offered.append(run_id)
        raise MlflowException("(raised as a result of autoflush)\ndatabase is locked\nwith a long explanation")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", down)
        for step in range(5):
            run.metrics({"reward": step}, step)
    assert len(offered) == 1, "a tracker that is down is left alone for a while"
    assert connect().get_run(run_id).data.metrics == {}
    before = connection.now()
    run.end("FINISHED")
    history = connect().get_metric_history(run_id, "reward")
    assert [(metric.step, metric.value) for metric in history] == [(step, step) for step in range(5)]
    assert all(metric.timestamp <= before for metric in history)
    assert connect().get_run(run_id).info.status == "FINISHED"
    (said,) = warnings_of(caplog)
    assert "(database is locked)" in said


def test_records_that_outlive_their_process_reach_mlflow_once_with_the_files_as_they_were(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store cannot be opened until the run is over; then two processes settle, one after the other."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/later/mlflow.db")
    (tmp_path / "later").write_text("no folder yet")
    run = StageRun("loss", None, {"stage_key": "late"})
    for step in range(3):
        run.metrics({"loss/score": step}, step)
    Path("trunks.csv").write_text("as it was")
    run.file(Path("trunks.csv"))
    Path("trunks.csv").write_text("of the next run")
    run.end("FINISHED")
    (tmp_path / "later").unlink()
    with monkeypatch.context() as elsewhere:
        elsewhere.delenv("MLFLOW_TRACKING_URI")
        stage_run.settle()
        assert list(Path("mlflow/spool").glob(f"{run.key}*")) != [], "they are for the other store"
    for _ in range(2):
        stage_run.settle()
    client = connect()
    (found,) = client.search_runs([connection.experiment_id(client)], "tags.stage_key = 'late'")
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "loss/score")
    assert [metric.value for metric in history] == [0, 1, 2]
    kept = client.download_artifacts(found.info.run_id, "trunks.csv", str(tmp_path))
    assert Path(kept).read_text() == "as it was"
    assert list(Path("mlflow/spool").glob(f"{run.key}*")) == []


def test_what_one_run_cannot_hand_over_holds_up_neither_the_others_nor_its_own_end(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store of files wants a library that is not there: as S3 does, where only the server has boto3."""

    def unstored(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'boto3'")

    Path("trunks.csv").write_text("some")
    with monkeypatch.context() as without:
        without.setattr(MlflowClient, "log_artifact", unstored)
        run, run_id = started("loss")
        run.file(Path("trunks.csv"))
        run.metrics({"loss/score": 1.0})
        run.end("FINISHED")
        other = Spool("other", run._header | {"name": "other", "tags": {stage_run.RUN_KEY: "other"}})
        other.add({"metrics": [("train/loss", 2.0, connection.now(), 0)]})
        other.close()
        stage_run.settle()
        found = connect().get_run(run_id)
        assert (found.data.metrics, found.info.status) == ({"loss/score": 1.0}, "FINISHED")
        assert list(Path("mlflow/spool").glob("other*")) == []
        assert list(Path("mlflow/spool").glob(f"{run.key}*")) != []
    stage_run.settle()
    assert [file.path for file in connect().list_artifacts(run_id)] == ["trunks.csv"]
    assert list(Path("mlflow/spool").glob(f"{run.key}*")) == []


def test_a_server_that_is_down_is_asked_once_however_much_waits_for_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name in ("one", "two", "three"):
        waiting = Spool(name, {"name": name, "store": connection.store()})
        waiting.add({"tags": [("a", "b")]})
        waiting.close()
    stage_run.settle()
    assert len([said for said in warnings_of(caplog) if said.startswith("warning: MLflow")]) == 1
    assert len(list(Path("mlflow/spool").glob("*.jsonl"))) == 3
    shutil.rmtree(Path("mlflow/spool"))


def test_a_token_that_ran_out_costs_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    run, run_id = started("train")

    def unknown(*_: Any, **__: Any) -> None:
        raise MlflowException("who are you", error_code=UNAUTHENTICATED)

    with monkeypatch.context() as expired:
        expired.setattr(MlflowClient, "log_batch", unknown)
        run.metrics({"train/loss": 1.0})
    run.end("FINISHED")
    assert connect().get_run(run_id).data.metrics == {"train/loss": 1.0}


def test_nobody_is_shown_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret@mlflow.example")
    assert runs.address_of("#/models") == "https://mlflow.example/#/models"
    said = connection.reason_of(MlflowException("API request to https://ada:secret@mlflow.example/api failed"))
    assert said == "API request to https://mlflow.example/api failed"


KILLED = """
import os, signal, sys
from mlflow import MlflowClient
from flows.tracking import stage_run
from flows.tracking.stage_run import StageRun

stage_run.SLOW = 1e9
run = StageRun("train", None, {"stage_key": sys.argv[1]})
run.metrics({"train/loss": 1.0}, 0)
real = MlflowClient.log_batch

def die(client, run_id, **parts):
    if sys.argv[2] == "after":
        real(client, run_id, **parts)
    os.kill(os.getpid(), signal.SIGKILL)

MlflowClient.log_batch = die
run.metrics({"train/loss": 2.0}, 1)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_a_record_is_handed_over_loses_none_doubles_none_and_the_run_ends_killed(
    workspace: Path, moment: str
) -> None:
    key = f"killed {moment}"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, key, moment], check=False, env={"PATH": "", "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -signal.SIGKILL
    client = connect()
    (run,) = client.search_runs([connection.experiment_id(client)], f"tags.stage_key = '{key}'")
    assert run.info.status == "RUNNING"
    stage_run.settle()
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 1.0), (1, 2.0)]
    assert client.get_run(run.info.run_id).info.status == "KILLED"


def test_the_run_of_a_living_process_is_left_alone() -> None:
    run, run_id = started("train")
    stage_run.settle()
    assert connect().get_run(run_id).info.status == "RUNNING"
    run.end("FINISHED")


def test_a_slow_tracker_is_asked_seldom_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every call takes ten seconds."""
    run, run_id = started("augmentation")
    clock, calls = [1000.0], [0]
    real = MlflowClient.log_batch

    def slow(client: MlflowClient, run: str, **parts: Any) -> None:
        clock[0] += 10
        calls[0] += 1
        real(client, run, **parts)

    monkeypatch.setattr(MlflowClient, "log_batch", slow)
    monkeypatch.setattr("flows.tracking.stage_run.time.monotonic", lambda: clock[0])
    for step in range(500):
        clock[0] += 1
        run.metrics({"reward": step}, step)
    assert clock[0] - 1500 <= 40, "three calls of ten seconds in 500, and one that is under way"
    run.end("FINISHED")
    assert calls[0] <= 5
    assert len(connect().get_metric_history(run_id, "reward")) == 500


def test_a_store_that_another_process_has_locked_delays_records_and_loses_none(workspace: Path) -> None:
    run, run_id = started("loss")
    other = sqlite3.connect(workspace / "mlflow/store/mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    for step in range(20):
        run.metrics({"loss/score": step}, step)
    assert time.monotonic() - began < 60, "one call waits for SQLite's own patience, the others for nothing"
    other.execute("ROLLBACK")
    run.end("FINISHED")
    assert len(connect().get_metric_history(run_id, "loss/score")) == 20


def test_a_record_that_mlflow_refuses_for_good_does_not_hold_up_the_next(caplog: pytest.LogCaptureFixture) -> None:
    run, run_id = started("train")
    run.metrics({"a name with a ? in it": 1.0})
    run.file(Path("never-written.csv"))
    run.metrics({"train/loss": 1.0})
    run.end("FAILED")
    found = connect().get_run(run_id)
    assert (found.data.metrics, found.info.status) == ({"train/loss": 1.0}, "FAILED")
    assert len(warnings_of(caplog)) == 2


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_parent_run_ends_as_its_block_did(error: BaseException | None, status: str) -> None:
    ids: list[str | None] = []

    def work() -> None:
        with runs.parent_run("retrain", {"git.commit": "abc"}) as parent:
            ids.append(parent)
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert connect().get_run(str(ids[0])).info.status == status


def test_a_stage_is_found_by_its_key_the_newest_finished_run_first() -> None:
    ends = [("FINISHED", "key-1"), ("FINISHED", "key-1"), ("FAILED", "key-1"), ("FINISHED", "key-2")]
    ids = []
    for status, key in ends:
        run, run_id = started("train@searched", {"stage_key": key})
        run.end(status)  # type: ignore[arg-type]
        ids.append(run_id)
    assert runs.find_stage_run("key-1") == ids[1]
    assert runs.find_stage_run("key-3") is None


def test_the_parent_names_the_run_behind_every_stage_executed_or_cached() -> None:
    lock: pipeline.Lock = {"cmd": "python", "deps": [{"path": "a", "md5": "b"}]}
    _, first = started("retrain")
    run, stage = started("prepare", {"stage_key": pipeline.stage_key(lock)}, first)
    run.end("FINISHED")
    _, second = started("retrain")
    for parent, how in ((first, "executed"), (second, "cached")):
        runs.link_stage(parent, "prepare", lock)
        tags = connect().get_run(parent).data.tags
        assert (tags["stage.prepare"], tags["stage.prepare.run"]) == (how, stage)


def test_the_data_version_is_an_input_of_the_run_with_its_counts_and_without_its_folder(workspace: Path) -> None:
    _, parent = started("retrain")
    paths.VALIDATION.parent.mkdir(parents=True, exist_ok=True)
    paths.VALIDATION.write_text(json.dumps({"classes": {"cat": {"kept": 3, "refused": 1}, "dog": {"kept": 4}}}))
    data = dataclasses.replace(PARAMS.data, source="parquet", path="/home/somebody/train.parquet")
    digest = "0123456789abcdef0123456789abcdef.dir"
    runs.log_data(parent, dataclasses.replace(PARAMS, data=data), digest)
    (found,) = connect().get_run(parent).inputs.dataset_inputs
    assert (found.dataset.digest, json.loads(found.dataset.source)) == (digest, {"uri": "train.parquet"})
    assert json.loads(found.dataset.profile) == {"images": 7, "classes": {"cat": 3, "dog": 4}}


def test_registering_a_file_twice_gives_one_version_and_another_file_the_next() -> None:
    _, run_id = started("train@searched")
    numbers = [models.register_model("twice", candidate(random_model(seed)), run_id) for seed in (1, 1, 2, 1)]
    assert numbers == ["1", "1", "2", "1"]
    assert len(connect().search_model_versions("name = 'twice'")) == 2


def test_an_alias_gives_back_the_very_bytes_and_moves_at_once() -> None:
    _, run_id = started("train@searched")
    assert models.load_by_alias("moved", "champion") is None
    for seed in (1, 2):
        number = models.register_model("moved", candidate(random_model(seed)), run_id)
        models.move_alias("moved", "champion", number)
        shipped = models.load_by_alias("moved", "champion")
        assert shipped is not None
        assert (shipped.version, shipped.model, shipped.md5) == (
            str(seed),
            random_model(seed),
            files.md5_of(random_model(seed)),
        )


def test_a_registered_model_serves_its_own_example_through_mlflow_and_says_its_signature() -> None:
    _, run_id = started("train@searched")
    wanted = candidate(random_model(3))
    models.move_alias("served", "champion", models.register_model("served", wanted, run_id))
    connect()  # sets the address that mlflow's own functions use
    loaded = mlflow.pyfunc.load_model("models:/served@champion")
    example = loaded.input_example
    assert np.array_equal(example["images"], wanted.example)
    answer = loaded.predict(example)
    assert np.array_equal(answer["logits"], onnx_logits(wanted.model, wanted.example))
    assert str(loaded.metadata.signature.inputs) == "['images': Tensor('uint8', (-1, 4, 4, 1))]"
    assert [spec.name for spec in loaded.metadata.signature.outputs] == ["logits", "probabilities"]


@pytest.fixture
def named_machine(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A user and host name that cannot be in a file by accident."""
    for variable in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "someuniqueuser")
    monkeypatch.setattr(socket, "gethostname", lambda: "someuniquehost")
    return ("someuniqueuser", "someuniquehost")


def test_no_path_user_or_host_is_in_a_tag_a_parameter_or_an_artifact(
    workspace: Path, named_machine: tuple[str, str]
) -> None:
    run, run_id = started("evaluate", {"stage_key": "k"})
    run.params({"data": {"path": f"{workspace}/images", "source": "folder"}})
    run.end("FINISHED")
    with runs.parent_run("publish", {}) as parent:
        runs.log_json(str(parent), {"passed": True}, "gate.json")
    models.register_model("clean", candidate(random_model(4)), run_id)
    private = re.compile("|".join([re.escape(str(workspace)), *named_machine]))
    files = [file for file in (workspace / "mlflow/store/artifacts").rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"MLmodel", "model.onnx", "gate.json", "input_example.json"}
    assert [file for file in files if private.search(file.read_text(errors="replace"))] == []
    database = sqlite3.connect(workspace / "mlflow/store/mlflow.db")
    for table in ("tags", "params", "model_version_tags", "logged_model_tags", "experiment_tags", "datasets"):
        rows = [row for row in database.execute(f"SELECT * FROM {table}") if private.search(str(row))]
        assert rows == [], table
    users = {user for (user,) in database.execute("SELECT user_id FROM runs")}
    assert not any(private.search(str(user)) for user in users)


CONNECT = "from flows.tracking.connection import connect; connect().search_experiments()"
KILLED_BETWEEN_TWO_STEPS = f"""
import os, signal
from sqlalchemy import event
from sqlalchemy.engine import Engine

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if "ADD COLUMN target_value" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

{CONNECT}
"""


def test_a_kill_while_the_tables_are_made_leaves_no_half_database(tmp_path: Path) -> None:
    """Between a column and the note that it is there: each later start would add it again, and fail."""
    environment = versions.stage_environment() | {"PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    codes = [
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False).returncode
        for code in (KILLED_BETWEEN_TWO_STEPS, CONNECT)
    ]
    assert codes == [-signal.SIGKILL, 0]
    assert not (tmp_path / "mlflow" / "store" / ".draft").exists()


def ended(key: str, minutes: float | None, status: Status) -> None:
    run = StageRun("loss", tags={"stage_key": key})
    if minutes is not None:
        run.metrics({CORE_MINUTES: minutes})
    run.end(status)
    time.sleep(0.002)  # runs are ordered by the millisecond in which they start


def test_results_cost_what_the_run_took_that_made_them_and_those_that_were_interrupted_on_the_way() -> None:
    ended("k", 10.0, "FINISHED")  # once before, by force
    ended("k", 3.0, "KILLED")
    ended("k", None, "KILLED")  # by force: it could not say
    ended("other", 7.0, "FINISHED")
    ended("k", 2.0, "FINISHED")
    ended("k", 5.0, "FAILED")  # later, without results
    assert runs.core_minutes("k") == pytest.approx(5.0)


def test_a_cost_that_was_never_recorded_is_none() -> None:
    ended("silent", None, "FINISHED")
    ended("unfinished", 1.0, "KILLED")
    assert [runs.core_minutes(key) for key in ("silent", "unfinished", "unknown")] == [None, None, None]


# ---------------------------------------------------------------- asked before the work


def another_programs(place: Path) -> None:
    place.parent.mkdir(parents=True)
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")  # many programs have one


def text(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_text("no database " * 99)


def no_file(place: Path) -> None:
    """Nothing is there yet."""


@pytest.mark.parametrize(
    ("tracking_uri", "registry_uri", "prepare", "said"),
    [
        ("http://me:secret@127.0.0.1:9", None, no_file, r"at http://127\.0\.0\.1:9 \(Connection refused\).*start that"),
        ("http://me:se@cr/et@127.0.0.1:9", None, no_file, r"at http://127\.0\.0\.1:9 \("),
        ("postgresql://me:se/cret@127.0.0.1:9/a", None, no_file, r"at postgresql://127\.0\.0\.1:9/a \("),
        ("./mlruns", None, no_file, r"at /.*/mlruns \(The filesystem tracking backend"),
        (None, None, another_programs, r"mlflow\.db \(it is a database of another program.*; move that file away"),
        (None, None, text, r"mlflow\.db \(file is not a database\).*; move that file away"),
        ("sqlite:///store/my.db", None, lambda place: text(Path("store/my.db")), r"/store/my\.db \(file is not a data"),
        (None, "http://me:secret@127.0.0.1:9", no_file, r"at http://127\.0\.0\.1:9 \(Conn.*; set MLFLOW_REGISTRY_URI"),
        (
            None,
            "databricks-uc",
            no_file,
            r"at databricks-uc \(Argument 'filter_string' is unsupported.*; set MLFLOW_REG",
        ),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence_before_the_work_without_its_password(
    tracking_uri: str | None, registry_uri: str | None, prepare: Any, said: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    for name, value in (("MLFLOW_TRACKING_URI", tracking_uri), ("MLFLOW_REGISTRY_URI", registry_uri)):
        if value is not None:
            monkeypatch.setenv(name, value)
    prepare(paths.STORE / "mlflow.db")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.db")}
    with pytest.raises(ValueError, match=said) as refused:
        readiness.require_usable("digits")
    assert "\n" not in str(refused.value)
    assert not re.search("me:|se@|cr/?et", str(refused.value) + caplog.text)
    assert before == {file: file.read_bytes() for file in before}
    assert warnings_of(caplog) == []


def test_a_server_that_never_answers_is_left_after_one_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(ValueError, match=r"\(Read timed out\)"):
            readiness.require_usable("digits")
        assert time.monotonic() - began < 10


def test_a_store_that_is_there_or_not_yet_is_usable(workspace: Path, tmp_path: Path) -> None:
    started("prepare")
    readiness.require_usable("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        readiness.require_usable("digits")
        assert not list(tmp_path.rglob("*.db"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///a/b.db", "sqlite:////checkout/a/b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite://", "sqlite://"),
        ("./mlruns", "/checkout/mlruns"),
        ("/mlruns", "/mlruns"),
        ("databricks", "databricks"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_a_relative_address_is_the_checkouts_wherever_it_is_read(given: str, expected: str) -> None:
    assert connection.absolute(given, Path("/checkout")) == expected
