"""What works for a process ends with it, and only that."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.runtime import processes

ROOT = Path(__file__).parents[2]
FLOW = """
import os, subprocess, sys, time
from flows.runtime import processes
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
with processes.guarded():
    child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
    time.sleep(float(sys.argv[1]))
"""
STUBBORN = """
import os, signal, time
for how in (signal.SIGINT, signal.SIGTERM):
    signal.signal(how, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(99)
"""
DVC = """
import os, subprocess, sys
stage = "import os, sys, time; from flows.runtime import processes as p; p.follow(p.dvc_above(), p.end_myself); "
stage += "print(os.getpid(), flush=True); time.sleep(99)"
subprocess.run(["sh", "-c", f"{sys.executable} -c '{stage}'; true"], env=os.environ | {"DVC_STAGE": "loss"})
"""


def start(*command: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A process, and the one whose number it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another flow."""
    process = subprocess.Popen(["sleep", "99"], env=os.environ | {processes.FLOW: "another"})
    yield process
    process.kill()
    process.wait()


def ended(process: psutil.Process, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while processes.alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes.alive(process)


def test_a_killed_flow_leaves_no_process_whatever_it_ignores_and_no_guardian(
    bystander: subprocess.Popen[bytes],
) -> None:
    flow, child = start(sys.executable, "-c", FLOW, "99")
    (guardian,) = [one for one in psutil.Process(flow.pid).children() if one.pid != child.pid]
    flow.kill()
    flow.wait()
    assert ended(child)
    assert ended(guardian)
    assert bystander.poll() is None


def test_a_flow_that_ends_well_leaves_none_either() -> None:
    flow, child = start(sys.executable, "-c", FLOW, "0")
    assert flow.wait(60) == 0
    assert ended(child)


def test_a_group_is_ended_to_its_last_member_also_without_its_leader() -> None:
    leader, member = start("sh", "-c", f"{sys.executable} -c '{STUBBORN}'; true")
    leader.kill()
    leader.wait()
    processes.end_group(leader.pid, patience=0.2)
    assert ended(member, 0)


def test_ctrl_c_does_not_end_the_guardian_before_its_flow() -> None:
    flow, child = start(sys.executable, "-c", FLOW, "99")
    (guardian,) = [one for one in psutil.Process(flow.pid).children() if one.pid != child.pid]
    time.sleep(0.5)
    guardian.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert processes.alive(guardian)
    flow.kill()
    flow.wait()
    assert ended(child)


def test_a_stage_ends_with_the_dvc_that_runs_it_through_a_shell(tmp_path: Path) -> None:
    program = tmp_path / "dvc"
    program.write_text(DVC)
    dvc, stage = start(sys.executable, str(program))
    dvc.kill()
    dvc.wait()
    assert ended(stage)


def test_a_stage_that_a_person_runs_follows_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert processes.dvc_above() == []


def test_a_stage_whose_dvc_is_gone_already_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "loss")
    monkeypatch.setattr(processes, "is_dvc", lambda process: False)
    with pytest.raises(ProcessLookupError):
        processes.dvc_above()


def own(**changes: str) -> dict[str, str]:
    return {**processes.tags(), **changes}


def test_a_passport_tells_a_process_from_one_with_its_number() -> None:
    place, number, start = processes.process_identity().split(" ")
    assert not processes.is_gone(own())
    assert processes.is_gone(own(process=f"{place} {number} {float(start) - 3600:.2f}"))
    done = subprocess.Popen(["true"])
    done.wait()
    assert processes.is_gone(own(process=f"{place} {done.pid} {start}"))


@pytest.mark.parametrize(
    ("boot", "namespace", "machine", "gone"),
    [("same", "other", "same", False), ("other", "same", "same", True), ("other", "same", "other", False)],
)
def test_of_another_place_only_this_machines_earlier_start_is_judged(
    monkeypatch: pytest.MonkeyPatch, boot: str, namespace: str, machine: str, gone: bool
) -> None:
    monkeypatch.setattr(processes, "process_namespace", lambda: "same.same")
    monkeypatch.setattr(processes, "machine", lambda: "same")
    said = {"process": f"{boot}.{namespace} {os.getpid()} 0.00", "process.machine": machine}
    assert processes.is_gone(said) is gone


def test_a_run_that_says_nothing_of_its_process_is_not_judged() -> None:
    assert not processes.is_gone({"stage_key": "k"})
