"""This environment starts Prefect's API and MLflow's server, and only this machine can reach them."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.clones import ROOT, environment, fresh_clone
from tests.servers import PATIENCE, answers, free_port, post, prefect_server, running, wait_until_healthy


def reachable(host: str, port: int) -> bool:
    with closing(socket.socket()) as client:
        client.settimeout(2)
        return client.connect_ex((host, port)) == 0


def beyond_loopback(port: int) -> list[str]:
    """Addresses of this machine, besides 127.0.0.1, at which something listens on the port.

    127.0.0.2 is answered by whatever listens on 0.0.0.0, without this machine having a network.
    """
    return [host for host in ("127.0.0.2", socket.gethostname()) if resolves_elsewhere(host) and reachable(host, port)]


def resolves_elsewhere(host: str) -> bool:
    try:
        return socket.gethostbyname(host) != "127.0.0.1"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers at 127.0.0.2")
def test_the_check_sees_a_server_that_listens_everywhere() -> None:
    with closing(socket.socket()) as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        assert "127.0.0.2" in beyond_loopback(server.getsockname()[1])


def test_prefect_and_mlflow_start_from_this_environment_and_listen_on_this_machine_only(tmp_path: Path) -> None:
    """Both at once: each mostly waits for its database."""
    homes = [tmp_path / "prefect", tmp_path / "mlflow"]
    for home in homes:
        home.mkdir()
    mlflow_port = free_port()
    variables = {
        "MLFLOW_PORT": str(mlflow_port),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{homes[1]}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(homes[1] / "artifacts"),
    }
    open_to_all = [str(ROOT / "mlflow/serve"), "--host", "0.0.0.0"]  # what `serve` must not obey
    with running(open_to_all, homes[1], **variables) as mlflow_log, prefect_server(homes[0]) as prefect_port:
        wait_until_healthy(mlflow_port, "/health", mlflow_log)
        assert answers(mlflow_port, "/"), "the UI's page"
        assert beyond_loopback(mlflow_port) == []
        assert beyond_loopback(prefect_port) == []
    assert not reachable("127.0.0.1", mlflow_port)
    assert not reachable("127.0.0.1", prefect_port)


def test_a_deployments_slot_outlives_no_machine_and_other_pages_are_not_let_in() -> None:
    """As a server has it that starts in this checkout: leases that a restart finds again, no open door for pages."""
    code = (
        "from prefect.settings import get_current_settings as s; import json; own = s().server; print(json.dumps(["
        "own.concurrency.lease_storage, own.api.cors_allowed_origins]))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    storage, origins = json.loads(done.stdout)
    assert storage == "prefect.server.concurrency.lease_storage.filesystem"
    assert "*" not in origins


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", "{port}"],
            "already in use",
        ),
        ([str(ROOT / "mlflow/serve"), "--port", "{port}"], "address already in use"),
    ],
    ids=["prefect", "mlflow"],
)
def test_a_server_whose_port_is_taken_says_so_and_ends(tmp_path: Path, command: list[str], said: str) -> None:
    """MLflow's ends with 0 all the same."""
    own = {
        "PREFECT_HOME": str(tmp_path),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts"),
    }
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [word.format(port=port) for word in command],
            cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert said in " ".join((done.stdout + done.stderr).split())


def test_a_deployments_schedule_makes_runs(tmp_path: Path) -> None:
    """A server can be healthy and take deployments while its scheduler fails at each: nothing would ever retrain."""
    with prefect_server(tmp_path) as port:
        flow = post(port, "flows/", {"name": "night"})
        nightly = {"schedule": {"cron": "0 3 * * *", "timezone": "UTC"}, "active": True}
        post(port, "deployments/", {"name": "nightly", "flow_id": flow["id"], "schedules": [nightly]})
        end = time.monotonic() + PATIENCE
        while not (runs := post(port, "flow_runs/filter", {})):
            assert time.monotonic() < end, "nothing was scheduled"
            time.sleep(0.5)
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}


KILLED = """
import time
from flows import deploy
from flows.schedule import workspace
workspace.prepare = lambda *given: time.sleep(600)
deploy.scheduled()
"""
NEXT = "from flows import deploy; deploy.scheduled(return_state=True)"


def test_a_deployment_that_was_killed_is_ended_in_prefect_by_the_next(tmp_path: Path) -> None:
    """Else it runs there for ever."""
    checkout = tmp_path / "line"
    checkout.mkdir()

    with prefect_server(tmp_path) as port:
        api = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(tmp_path)}
        variables = os.environ | api | {"PYTHONPATH": str(ROOT)}

        def runs() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = post(port, "flow_runs/filter", {"sort": "START_TIME_ASC"})
            return found

        process = subprocess.Popen([sys.executable, "-c", KILLED], cwd=checkout, env=variables)
        end = time.monotonic() + PATIENCE
        while not any(tag.startswith("line.process=") for run in runs() for tag in run["tags"]):
            assert time.monotonic() < end, "the flow said nothing of its process"
            time.sleep(0.5)
        process.kill()
        process.wait()
        assert [run["state_type"] for run in runs()] == ["RUNNING"]
        subprocess.run([sys.executable, "-c", NEXT], cwd=checkout, env=variables, check=True)
        first = runs()[0]
        assert (first["state_type"], first["state"]["message"]) == ("CRASHED", "its process was killed")


@pytest.mark.timeout(900)  # a worker, a flow, two stages before the one that is ended: minutes on a loaded machine
def test_a_deployments_run_that_is_cancelled_in_prefect_ends_its_stage_and_says_so_in_mlflow(tmp_path: Path) -> None:
    """As production has it: prefect.yaml deployed, a worker, a run of it, and a person who presses Cancel."""
    checkout = tmp_path / "line"
    checkout.mkdir()
    settings = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
    settings["architecture"]["warmup_epochs"] = 10_000  # far longer than the test
    long = tmp_path / "long.yaml"
    long.write_text(yaml.safe_dump(settings, sort_keys=False))
    fresh_clone(checkout, long)
    with prefect_server(tmp_path) as port:
        variables = {
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_HOME": str(tmp_path),
            "ASSEMBLY_LINE_CHECKOUT": str(checkout),
        }

        def prefect(*words: str) -> None:
            done = subprocess.run(
                [sys.executable, "-m", "prefect", "--no-prompt", *words],
                cwd=checkout, env=environment(checkout) | variables, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

        def nightly() -> dict[str, Any]:
            (found,) = (run for run in post(port, "flow_runs/filter", {}) if run["id"] == run_id)
            return dict(found)

        prefect("work-pool", "create", "line", "--type", "process")
        prefect("deploy", "--all")
        (nightly_id,) = (found["id"] for found in post(port, "deployments/filter", {}) if found["name"] == "nightly")
        run_id = post(port, f"deployments/{nightly_id}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "line"]
        home = tmp_path / "worker"
        home.mkdir()
        with running(worker, home, **environment(checkout) | variables) as log:
            wait_for(lambda: bool(stages_below(tmp_path)), log, "no stage of the search ran")
            wait_for(lambda: open_runs(checkout) == 2, log, "the stage says nothing to MLflow")
            time.sleep(1)  # into its work
            assert nightly()["state_type"] == "RUNNING"
            post(port, f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
            asked = time.monotonic()
            wait_for(lambda: not stages_below(tmp_path), log, "the stage goes on")
            took = time.monotonic() - asked
            wait_for(lambda: nightly()["state_type"] != "CANCELLING", log, "Prefect waits for ever")
            assert nightly()["state_type"] == "CANCELLED"
        assert took < SOON
    with closing(sqlite3.connect(checkout / "mlflow" / "store" / "mlflow.db")) as database:
        states = dict(database.execute("SELECT status, count(*) FROM runs GROUP BY status"))
    assert "RUNNING" not in states
    assert states["KILLED"] == 2, "the retrain's run and the stage's"


SOON = 20.0
"""Seconds for a worker to look whether something was cancelled, every 10, and for a stage to end, within 5."""


def wait_for(true: Callable[[], bool], log: Path, why: str) -> None:
    end = time.monotonic() + 2 * PATIENCE
    while not true():
        assert time.monotonic() < end, f"{why}:\n{log.read_text()[-3000:]}"
        time.sleep(0.5)  # to look through all processes takes a while


def open_runs(checkout: Path) -> int:
    """MLflow's runs that have not ended; the file is looked at as it is, and not made."""
    store = f"file:{checkout}/mlflow/store/mlflow.db?mode=ro"
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(store, uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0])
    return 0


def stages_below(folder: Path) -> list[int]:
    """Processes of the architecture search that work in a folder below this one."""
    found = []
    for process in psutil.process_iter():
        try:
            words, place = process.cmdline(), process.cwd()
        except psutil.Error:
            continue
        if "flows.stage" in words and "architecture" in words and place.startswith(str(folder)):
            found.append(process.pid)
    return found
