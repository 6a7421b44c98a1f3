"""Make Ctrl-C and SIGTERM end a process in an orderly way."""

import signal
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C so that everything on the way out runs."""


def heed_signals() -> None:
    """Make Ctrl-C and SIGTERM raise in this process, even if it was started in the background, where Ctrl-C is off."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminate)


def terminate(signum: int, frame: FrameType | None) -> None:
    """Raise Terminated once; later signals do not interrupt the clean-up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
