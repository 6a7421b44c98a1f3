"""What happens to files: for the tests of what notices it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def flipped(file: Path) -> Iterator[None]:
    """One bit of the file's last byte is another one while the block lasts."""
    before, mode = file.read_bytes(), file.stat().st_mode
    with replaced(file, before[:-1] + bytes([before[-1] ^ 1])):
        yield
    assert (file.read_bytes(), file.stat().st_mode) == (before, mode)


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    """Other content while the block lasts; DVC's cache is write-protected."""
    before, mode = file.read_bytes(), file.stat().st_mode
    file.chmod(0o644)
    try:
        file.write_bytes(content)
        yield
    finally:
        file.write_bytes(before)
        file.chmod(mode)
