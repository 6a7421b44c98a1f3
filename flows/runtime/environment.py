"""Check, before a library is imported, that this is the right Python, and keep proxies away from local addresses.

Only the standard library is imported here.
"""

import os
import sys
from importlib.util import find_spec

NEEDED = ("filelock", "pydantic", "torch")
"""Libraries that show that this is the line's environment. (`mlflow` would not: a folder has that name.)"""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def require_environment() -> None:
    """End the process with one sentence and exit code 2 in a Python that lacks the line's libraries.

    An editor or a shell without the activated environment runs a stage of dvc.yaml with whatever `python` it finds.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(refusal(f"{sys.executable} has no {missing[0]}: it is not the Python of the line's environment"))


def refusal(what: str) -> int:
    """Print the error and return the exit code."""
    print(f"error: {what}; activate that first, with `source .venv/bin/activate`", file=sys.stderr)
    return 2


def spare_loopback() -> None:
    """Exclude this machine's own addresses from the proxy settings of this process and its children.

    A proxy cannot reach the servers of this machine: Prefect's temporary one, MLflow's, the one that serves a model.
    """
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        return
    for name in ("no_proxy", "NO_PROXY"):
        given = os.environ.get(name) or os.environ.get(name.swapcase(), "")
        hosts = [host.strip() for host in given.split(",") if host.strip()]
        os.environ[name] = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
