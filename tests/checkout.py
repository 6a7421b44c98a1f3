"""Whether something changed the checkout that it runs from: tracked files, and untracked ones that git does not ignore.

A test that deletes or edits a file here is found by the next commit at best: `params.yaml` was lost that way.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

State = Mapping[str, str]
"""Path relative to the root -> sha256 of the file, or where a link points."""


@dataclass(frozen=True)
class Change:
    """What happened to a file of the checkout."""

    path: str
    what: str
    """`deleted`, `added` or `edited`."""

    def __str__(self) -> str:
        return f"{self.path} was {self.what}"


def listed(root: Path) -> list[str]:
    """Every tracked file, and every untracked one that git does not ignore. Raises CalledProcessError without git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted({name for name in names if name})


def state_of(root: Path) -> State:
    """The checkout's files as they are now; a tracked file that is not there is left out."""
    return {name: content_of(root / name) for name in listed(root) if os.path.lexists(root / name)}


def content_of(file: Path) -> str:
    if file.is_symlink() or file.is_dir():  # git lists a nested repository as a folder
        return os.readlink(file) if file.is_symlink() else "a folder"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def changes(before: State, after: State) -> list[Change]:
    """What differs, by path."""
    deleted = [Change(path, "deleted") for path in before.keys() - after.keys()]
    added = [Change(path, "added") for path in after.keys() - before.keys()]
    edited = [Change(path, "edited") for path in before.keys() & after.keys() if before[path] != after[path]]
    return sorted([*deleted, *added, *edited], key=lambda change: change.path)


class Watch:
    """Looks at a checkout again and again, cheaply: contents are read only where sizes and times have changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = state_of(root)
        self.places = places(root, self.state)
        self.glance = glance(self.places)

    def look(self) -> list[Change]:
        """What has changed since the last look."""
        now = glance(self.places)
        if now == self.glance:
            return []
        return self.compare()

    def compare(self) -> list[Change]:
        """The same, with every content read."""
        after = state_of(self.root)
        found = changes(self.state, after)
        self.state, self.places = after, places(self.root, after)
        self.glance = glance(self.places)
        return found


def places(root: Path, names: Iterable[str]) -> list[Path]:
    """The files, the folders that hold them, and the folders in these: where a new file shows in the folder's time."""
    files = [root / name for name in names]
    folders = {root, *(parent for name in names for parent in (root / name).parents if parent.is_relative_to(root))}
    below = {
        Path(entry.path)
        for folder in folders
        if folder.is_dir()
        for entry in os.scandir(folder)
        if entry.is_dir(follow_symlinks=False)
    }
    return sorted({*files, *folders, *below})


def glance(found: Iterable[Path]) -> list[tuple[int, int, int] | None]:
    """Size, time and mode of each place."""
    return [time_of(place) for place in found]


def time_of(place: Path) -> tuple[int, int, int] | None:
    try:
        status = place.lstat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_mode
