"""Types and shapes unchecked for a while: for what repeats a computation that another test runs with the checks on.

The checks of jaxtyping and beartype at every call make a search on a table eight times as slow.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from jaxtyping import config


@contextmanager
def unchecked() -> Iterator[None]:
    """In this process; also what was imported before is called without its checks."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


@pytest.fixture
def without_checks() -> Iterator[None]:
    """For tests of wiring: each stage runs with the checks in tests/flows/test_report.py, each component in its own."""
    with unchecked():
        yield
