"""Before a library is imported: check that this is the right Python, keep proxies away from local addresses, and give
numpy one thread.

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


def give_numpy_one_thread() -> None:
    """Let numpy compute products on one thread, unless a person has set the number; it reads this when it is loaded.

    On two threads, while other work runs, products as small as the searches' take seventy times as long (OpenBLAS spins
    at every one), and their last bits depend on the number of cores.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
