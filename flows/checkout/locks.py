"""File locks that let only one process at a time do a piece of work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def file_lock(place: Path, refusal: Exception, patience: float = 0.0) -> Iterator[None]:
    """Hold the file within the block; raise the refusal if another process holds it for longer than `patience` seconds.

    The lock file is never removed: removing it while another process waits for it would let two processes in.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(place).acquire(timeout=patience)
    except Timeout:
        raise refusal from None
    with lock:
        yield
