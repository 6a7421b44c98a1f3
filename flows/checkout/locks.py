"""One process at a time: files that are held while somebody works."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def held(place: Path, refusal: Exception, patience: float = 0.0) -> Iterator[None]:
    """Hold the file within the block; raise the refusal if another process holds it for longer than `patience` seconds.

    The file stays: to remove it while somebody waits for it would let two in.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(place).acquire(timeout=patience)
    except Timeout:
        raise refusal from None
    with lock:
        yield
