"""Every process of the line has the right Python, and asks its own machine without a proxy."""

import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
import requests

from flows.runtime.environment import PROXIES, spare_loopback

ROOT = Path(__file__).parents[2]
NOWHERE = "127.0.0.1:9"
NAMES = [name for proxy in (*PROXIES, "no_proxy") for name in (proxy, proxy.upper())]
ALL = "127.0.0.1,localhost,::1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without a proxy, and as it was afterwards."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *said: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server on this machine."""
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


ASKED = {
    # not `urlopen`, whose first call would keep this test's proxy for all later ones of the process
    "urllib": lambda address: urllib.request.build_opener().open(address, timeout=5).status,
    "httpx": lambda address: httpx.get(address, timeout=5).status_code,  # Prefect
    "requests": lambda address: requests.get(address, timeout=5).status_code,  # MLflow
}


@pytest.mark.parametrize("library", ASKED)
@pytest.mark.parametrize(
    ("name", "proxy"),
    [("http_proxy", f"http://{NOWHERE}"), ("ALL_PROXY", f"socks5://{NOWHERE}"), ("all_proxy", f"http://{NOWHERE}")],
)
def test_this_machine_is_asked_without_the_proxy(
    library: str, name: str, proxy: str, address: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(name, proxy)
    spare_loopback()
    assert ASKED[library](address) == 200


def test_any_other_machine_is_asked_through_the_proxy(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALL_PROXY", f"socks5://{NOWHERE}")
    spare_loopback()
    with pytest.raises(httpx.ConnectError, match="refused"):
        httpx.get("http://192.0.2.1", timeout=5)  # a network that nobody has: without the proxy it would time out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"NO_PROXY": "example.org"}, "example.org"),
        ({"http_proxy": "http://p"}, ALL),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "example.org, localhost"}, "example.org,localhost,127.0.0.1,::1"),
        ({"all_proxy": "http://p", "no_proxy": ALL}, ALL),
    ],
)
def test_a_persons_own_exceptions_stay(
    given: Mapping[str, str], expected: str | None, environment: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        environment.setenv(name, value)
    spare_loopback()
    assert os.environ.get("NO_PROXY") == expected
    assert expected is None or "http_proxy" not in given or os.environ["no_proxy"] == expected


def test_another_python_is_one_sentence_and_2() -> None:
    """As an editor's DVC may start a stage: -S leaves out what is installed."""
    command = [sys.executable, "-S", "-m", "flows.stage", "prepare"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"error: {sys.executable} has no filelock: it is not the Python of the line's environment")
    assert said.endswith("; activate that first, with `source .venv/bin/activate`")


@pytest.mark.parametrize(("given", "expected"), [(None, 1), ("2", 2)])
def test_numpy_computes_on_one_thread_unless_a_person_says_otherwise(given: str | None, expected: int) -> None:
    code = """
from flows import commands
commands.parse("stage", ["plan"])
import numpy
from threadpoolctl import threadpool_info
print(*(one["num_threads"] for one in threadpool_info() if one["internal_api"] == "openblas"))
"""
    bare = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    bare.pop("OMP_NUM_THREADS", None)
    own = bare if given is None else bare | {"OPENBLAS_NUM_THREADS": given}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    assert set(map(int, done.stdout.split())) == {min(expected, len(os.sched_getaffinity(0)))}
