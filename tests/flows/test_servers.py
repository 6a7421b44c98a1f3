"""This environment starts Prefect's API and MLflow's server, and only this machine can reach them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 100.0
"""Seconds until a server must answer: Prefect took 47 on a loaded machine."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], home: Path, **variables: str) -> Iterator[Path]:
    """A server in a process group of its own, in and with an empty home; gives its log."""
    log = home / "server.log"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}
    environment = clean | {"HOME": str(home), "PATH": path} | variables
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield log
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to stop, then insist; no server outlives its test."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_until_healthy(port: int, path: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not answers(port, path):
        assert time.monotonic() < end, f"no answer from {path}:\n{log.read_text()[-3000:]}"
        time.sleep(0.3)


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
    prefect_port, mlflow_port = free_port(), free_port()
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)]
    store = f"sqlite:///{homes[1]}/mlflow.db"
    with (
        running(
            prefect,
            homes[0],
            PREFECT_HOME=str(homes[0]),
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_PROFILES_PATH=str(homes[0] / "profiles.toml"),
        ) as prefect_log,
        running(
            [str(ROOT / "mlflow/serve"), "--host", "0.0.0.0"],  # what `serve` must not obey
            homes[1],
            MLFLOW_PORT=str(mlflow_port),
            MLFLOW_BACKEND_STORE_URI=store,
            MLFLOW_ARTIFACTS_DESTINATION=str(homes[1] / "artifacts"),
        ) as mlflow_log,
    ):
        wait_until_healthy(mlflow_port, "/health", mlflow_log)
        assert answers(mlflow_port, "/"), "the UI's page"
        wait_until_healthy(prefect_port, "/api/health", prefect_log)
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


def post(port: int, path: str, body: dict[str, Any]) -> Any:
    """What Prefect's API answers; asked again while it is busy (503: its database is locked), as its client does."""
    address = f"http://127.0.0.1:{port}/api/{path}"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > end:
                raise
        time.sleep(1)


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
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    own = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with running(command, tmp_path, **own) as log:
        wait_until_healthy(port, "/api/health", log)
        flow = post(port, "flows/", {"name": "night"})
        nightly = {"schedule": {"cron": "0 3 * * *", "timezone": "UTC"}, "active": True}
        post(port, "deployments/", {"name": "nightly", "flow_id": flow["id"], "schedules": [nightly]})
        end = time.monotonic() + PATIENCE
        while not (runs := post(port, "flow_runs/filter", {})):
            assert time.monotonic() < end, f"nothing was scheduled:\n{log.read_text()[-3000:]}"
            time.sleep(0.5)
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}


KILLED = """
import time
from flows import deploy, workspace
workspace.prepare = lambda *given: time.sleep(600)
deploy.scheduled()
"""
NEXT = "from flows import deploy; deploy.scheduled(return_state=True)"


def test_a_deployment_that_was_killed_is_ended_in_prefect_by_the_next(tmp_path: Path) -> None:
    """Else it runs there for ever."""
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    own = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment = os.environ | own | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PYTHONPATH": str(ROOT)}
    checkout = tmp_path / "line"
    checkout.mkdir()

    def runs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = post(port, "flow_runs/filter", {"sort": "START_TIME_ASC"})
        return found

    with running(command, tmp_path, **own) as log:
        wait_until_healthy(port, "/api/health", log)
        process = subprocess.Popen([sys.executable, "-c", KILLED], cwd=checkout, env=environment)
        end = time.monotonic() + PATIENCE
        while not any(tag.startswith("line.process=") for run in runs() for tag in run["tags"]):
            assert time.monotonic() < end, "the flow said nothing of its process"
            time.sleep(0.5)
        process.kill()
        process.wait()
        assert [run["state_type"] for run in runs()] == ["RUNNING"]
        subprocess.run([sys.executable, "-c", NEXT], cwd=checkout, env=environment, check=True)
        first = runs()[0]
        assert (first["state_type"], first["state"]["message"]) == ("CRASHED", "its process was killed")
