"""No test changes the checkout that it runs from: the session fails, and names the test after which a file differed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import Watch

WATCH = pytest.StashKey[Watch | None]()
FOUND = pytest.StashKey[list[tuple[str, str]]]()
"""(what changed, the test that had just ended), in this process or in a worker of it."""
OUTPUT = "checkout"
"""What a worker of pytest-xdist hands to the process that started it."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FOUND] = []
    try:
        config.stash[WATCH] = Watch(Path(config.rootpath))
    except (OSError, subprocess.CalledProcessError):
        config.stash[WATCH] = None  # the sources without git: there is nothing to compare with


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """After the test and the fixtures that end with it."""
    done = yield
    watch, found = item.config.stash[WATCH], item.config.stash[FOUND]
    found.extend((str(change), item.nodeid) for change in (watch.look() if watch else ()))
    return done


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker ended: take what it found. Both workers find a change, each after the test that it ran meanwhile."""
    node.config.stash[FOUND].extend(map(tuple, getattr(node, "workeroutput", {}).get(OUTPUT, ())))


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    watch, found = config.stash[WATCH], config.stash[FOUND]
    if hasattr(config, "workeroutput"):
        config.workeroutput[OUTPUT] = found
        return
    named = {said for said, _ in found}
    for change in watch.compare() if watch else ():
        if str(change) not in named:
            found.append((str(change), "no single test"))
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    suspects: dict[str, list[str]] = {}
    for said, test in config.stash[FOUND]:
        suspects.setdefault(said, []).append(test)
    if suspects:
        terminalreporter.section("the tests changed the checkout that they ran from", red=True, bold=True)
    for said, tests in suspects.items():
        terminalreporter.line(f"{said} during {' or '.join(dict.fromkeys(tests))}", red=True)
    if suspects:
        terminalreporter.line("A test writes into a folder of its own (tmp_path); restore the files with git.")
