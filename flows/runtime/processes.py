"""End every process when the process that it works for has ended, and identify processes across restarts.

A killed process cleans up nothing, so others do: a stage ends when DVC has ended, a worker when its stage has, and a
guardian process beside the flow ends whatever the flow had started (Prefect's temporary server, DVC, stages, workers),
which it finds by a mark in their environment. (Linux's PR_SET_PDEATHSIG does not help: it reports the end of the
parent's *thread*.)
"""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

import psutil

FLOW = "ASSEMBLY_LINE_FLOW"
"""Environment variable with the identity of the flow that a process works for; it is the mark on these processes."""
LOOK_EVERY = 0.5
"""Seconds between two checks that a followed process is alive."""
PATIENCE = 2.0
"""Seconds that a process gets to end by itself after each signal."""
CLOCKS_DIFFER = 30.0
"""Seconds by which the start time of one process may seem to change when the clock is set."""


# ---------------------------------------------------------------- following


def alive(process: psutil.Process) -> bool:
    """Whether the process still runs: its number is not reused, and it is no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def follow(leaders: Sequence[psutil.Process], end: Callable[[], None]) -> None:
    """Start a thread that calls `end` as soon as one of the leaders has ended."""

    def watch() -> None:
        while all(alive(leader) for leader in leaders):
            time.sleep(LOOK_EVERY)
        end()

    if leaders:
        threading.Thread(target=watch, daemon=True, name="lifeline").start()


def dvc_above() -> list[psutil.Process]:
    """Return the processes from this one's parent up to the DVC that runs it; none if a person runs the stage.

    Raises `ProcessLookupError` if DVC has already ended.
    """
    if "DVC_STAGE" not in os.environ:
        return []
    above: list[psutil.Process] = psutil.Process().parents()
    for height, process in enumerate(above, start=1):
        if is_dvc(process):
            return above[:height]
    raise ProcessLookupError


def is_dvc(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return any(Path(word).name == "dvc" for word in command[:4])


def end_myself() -> None:
    """End this process by SIGTERM, so that its clean-up runs; then kill it and all that it started."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def serve_only(employer: int) -> None:
    """Make this worker process end at once when the process that started it has ended."""
    if os.getppid() == employer:
        watch_employer(employer)


@cache
def watch_employer(employer: int) -> None:
    follow([psutil.Process(employer)], lambda: os._exit(1))


# ---------------------------------------------------------------- the guardian


@contextmanager
def guarded() -> Iterator[None]:
    """Make sure that nothing that is started in the block outlives this process, however this process ends.

    What the block starts may run on after the block, as Prefect's temporary server does.
    """
    above = os.environ.pop(FLOW, None)  # the guardian of a flow above must not end our processes
    guardian = subprocess.Popen(
        [sys.executable, "-m", "flows.runtime.processes", process_identity()],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    GUARDIANS.append(guardian)
    os.environ[FLOW] = process_identity()
    try:
        yield
    finally:
        os.environ.pop(FLOW)
        if above is not None:
            os.environ[FLOW] = above


GUARDIANS: list[subprocess.Popen[bytes]] = []
"""Keeps the pipe to each guardian open. It closes when this process ends, and then the guardian ends what is left."""


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the living processes that a flow started, directly or indirectly."""
    return [process for process in psutil.process_iter() if mark_of(process) == mark and alive(process)]


def mark_of(process: psutil.Process) -> str | None:
    try:
        mark: str | None = process.environ().get(FLOW)
        return mark
    except (psutil.Error, OSError):
        return None


def end_marked(mark: str) -> None:
    """End the processes that a flow left behind: by SIGTERM, then by SIGKILL."""
    left = marked_processes(mark)
    for process in left:
        signal_to(process, signal.SIGTERM)
    psutil.wait_procs(left, timeout=PATIENCE)
    while left := marked_processes(mark):
        for process in left:
            signal_to(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=PATIENCE)


def signal_to(process: psutil.Process, how: signal.Signals) -> None:
    try:
        process.send_signal(how)
    except psutil.NoSuchProcess:
        return


# ---------------------------------------------------------------- groups


def members(group: int) -> list[psutil.Process]:
    """Return the living processes of a process group."""
    return [process for process in psutil.process_iter() if group_of(process) == group and alive(process)]


def group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None


GENTLY = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
"""Signals in order: as Ctrl-C (DVC then releases its locks), as a shutdown, by force."""


def end_group(group: int, ways: Sequence[signal.Signals] = GENTLY, patience: float = PATIENCE) -> None:
    """End every process of a group, with the next signal of `ways` after each `patience` seconds."""
    for how in ways:
        deadline = time.monotonic() + patience
        with suppress(ProcessLookupError):
            os.killpg(group, how)
        while members(group) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not members(group):
            return


def run_group(
    command: list[str],
    environment: dict[str, str],
    folder: Path | None = None,
    ways: Sequence[signal.Signals] = GENTLY,
    patience: float = PATIENCE,
    stdout: int | None = None,
) -> int:
    """Run a command in its own process group and return its exit status; end the whole group however this ends."""
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=stdout, start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None or members(process.pid):
            end_group(process.pid, ways, patience)
            process.wait()


# ---------------------------------------------------------------- passports


@cache
def process_namespace() -> str:
    """Identify the boot and process namespace (else the start of the machine) in which process numbers are unique."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        return f"{boot.read_text().strip()}.{namespace.stat().st_ino}"
    return f"{machine()}.{psutil.boot_time():.0f}"


@cache
def machine() -> str:
    """Return a digest that identifies this machine without revealing it, or an empty text if it has no machine-id.

    The host name is part of it, because containers of one image share a machine-id but have different names."""
    identity = Path("/etc/machine-id")
    own = identity.read_bytes().strip() if identity.exists() else b""
    return sha256(own + platform.node().encode()).hexdigest()[:16] if own else ""


def process_identity() -> str:
    """Return what identifies this process among all on any machine at any time: `<place> <number> <start>`."""
    own = psutil.Process()
    return f"{process_namespace()} {own.pid} {own.create_time():.2f}"


def tags() -> Mapping[str, str]:
    """Return the tags that identify the process of a run."""
    return {"process": process_identity()} | ({"process.machine": machine()} if machine() else {})


def is_gone(identity: Mapping[str, str]) -> bool:
    """Whether the process with these tags has certainly ended, here or before this machine last started."""
    if "process" not in identity:
        return False
    where, number, start = identity["process"].split(" ")
    if where != process_namespace():
        rebooted = where.partition(".")[0] != process_namespace().partition(".")[0]
        return rebooted and bool(machine()) and identity.get("process.machine") == machine()
    try:
        process = psutil.Process(int(number))
        return not alive(process) or abs(process.create_time() - float(start)) > CLOCKS_DIFFER
    except psutil.NoSuchProcess:
        return True


if __name__ == "__main__":
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # what ends the flow must not end its guardian
        signal.signal(how, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])
