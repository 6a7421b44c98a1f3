"""Ctrl-C and SIGTERM end a process in order."""

import signal
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C so that everything on the way out runs."""


def heed_signals() -> None:
    """Ctrl-C and SIGTERM end this process in order, also where it was started in the background, deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminate)


def terminate(signum: int, frame: FrameType | None) -> None:
    """Once: what runs on the way out is not interrupted again."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
