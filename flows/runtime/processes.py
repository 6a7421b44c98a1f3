"""No process outlives the one it works for, and what a dead process left running is known by its passport.

A killed process cleans up nothing, so the survivors do: a stage follows DVC, a worker follows its stage, and a guardian
beside the flow ends whatever the flow had started (Prefect's temporary server, DVC, stages, workers), which it knows by
a mark in their environment. (Linux's PR_SET_PDEATHSIG would not do: it tells of the end of the parent's *thread*.)
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
"""Environment variable: the passport of the flow that a process works for."""
LOOK_EVERY = 0.5
"""Seconds between two looks at who is followed."""
PATIENCE = 2.0
"""Seconds that a process gets to end by itself, each time it is asked."""
CLOCKS_DIFFER = 30.0
"""Seconds that the start of one process may seem to move when the clock is set."""


# ---------------------------------------------------------------- following


def alive(process: psutil.Process) -> bool:
    """Whether it is still that process, and not only its entry in the process table."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def follow(leaders: Sequence[psutil.Process], end: Callable[[], None]) -> None:
    """Call `end`, in a thread, as soon as one of the leaders is gone."""

    def watch() -> None:
        while all(alive(leader) for leader in leaders):
            time.sleep(LOOK_EVERY)
        end()

    if leaders:
        threading.Thread(target=watch, daemon=True, name="lifeline").start()


def dvc_above() -> list[psutil.Process]:
    """The processes between this one and the DVC that runs it, and DVC; none where a person runs the stage.

    Raises `ProcessLookupError` if DVC is gone already.
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
    """As SIGTERM would, so that everything on the way out runs; then, with all that this process started, by force."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def serve_only(employer: int) -> None:
    """In a worker process: end at once when the process that started it is gone."""
    if os.getppid() == employer:
        watch_employer(employer)


@cache
def watch_employer(employer: int) -> None:
    follow([psutil.Process(employer)], lambda: os._exit(1))


# ---------------------------------------------------------------- the guardian


@contextmanager
def guarded() -> Iterator[None]:
    """Mark everything that this process starts in the block; nothing of it outlives this process, however it ends.

    What the block starts may end with it or go on to the end of the process, as Prefect's temporary server does.
    """
    above = os.environ.pop(FLOW, None)  # its guardian must not end ours
    guardian = subprocess.Popen(
        [sys.executable, "-m", "flows.runtime.processes", passport()], stdin=subprocess.PIPE, start_new_session=True
    )
    GUARDIANS.append(guardian)
    os.environ[FLOW] = passport()
    try:
        yield
    finally:
        os.environ.pop(FLOW)
        if above is not None:
            os.environ[FLOW] = above


GUARDIANS: list[subprocess.Popen[bytes]] = []
"""Kept for the pipe to each, which closes when this process ends: then it looks for what was left behind."""


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that a flow started, directly or not."""
    return [process for process in psutil.process_iter() if mark_of(process) == mark and alive(process)]


def mark_of(process: psutil.Process) -> str | None:
    try:
        mark: str | None = process.environ().get(FLOW)
        return mark
    except (psutil.Error, OSError):
        return None


def end_marked(mark: str) -> None:
    """Ask what a flow left behind to stop, then insist."""
    left = marked(mark)
    for process in left:
        signal_to(process, signal.SIGTERM)
    psutil.wait_procs(left, timeout=PATIENCE)
    while left := marked(mark):
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
    """The living processes of a process group."""
    return [process for process in psutil.process_iter() if group_of(process) == group and alive(process)]


def group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None


GENTLY = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
"""As Ctrl-C would (DVC then releases its locks), as a shutdown would, by force."""


def end_group(group: int, ways: Sequence[signal.Signals] = GENTLY, patience: float = PATIENCE) -> None:
    """End every process of a group, in the next of the ways when `patience` seconds of one have passed."""
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
    """Run a command in a process group of its own, of which nothing is left, whatever ends the command or us."""
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=stdout, start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None or members(process.pid):
            end_group(process.pid, ways, patience)
            process.wait()


# ---------------------------------------------------------------- passports


@cache
def place() -> str:
    """Where process numbers mean what they mean here: this boot and process namespace, or this start of the machine."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        return f"{boot.read_text().strip()}.{namespace.stat().st_ino}"
    return f"{machine()}.{psutil.boot_time():.0f}"


@cache
def machine() -> str:
    """A digest that stands for this machine, and says nothing of it; empty where it has no identity of its own. The
    name is part of it: containers of one image have one machine-id, but names of their own."""
    identity = Path("/etc/machine-id")
    own = identity.read_bytes().strip() if identity.exists() else b""
    return sha256(own + platform.node().encode()).hexdigest()[:16] if own else ""


def passport() -> str:
    """What tells this process from every other, here or elsewhere, now or later: `<place> <number> <start>`."""
    own = psutil.Process()
    return f"{place()} {own.pid} {own.create_time():.2f}"


def tags() -> Mapping[str, str]:
    """What a run says of the process that does it."""
    return {"process": passport()} | ({"process.machine": machine()} if machine() else {})


def is_gone(said: Mapping[str, str]) -> bool:
    """Whether the process with these tags has certainly ended: here, or before this machine last started."""
    if "process" not in said:
        return False
    where, number, start = said["process"].split(" ")
    if where != place():
        rebooted = where.partition(".")[0] != place().partition(".")[0]
        return rebooted and bool(machine()) and said.get("process.machine") == machine()
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
