"""Servers that tests start, and how they are asked."""

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


@contextmanager
def prefect_server(home: Path, port: int | None = None, **variables: str) -> Iterator[int]:
    """Prefect's API, healthy, its database in the folder unless the variables say otherwise; gives its port."""
    port = port or free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    own = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
    }
    with running(command, home, **own | variables) as log:
        wait_until_healthy(port, "/api/health", log)
        yield port


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
