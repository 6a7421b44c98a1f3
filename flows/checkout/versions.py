"""Call DVC: run its commands, version the data, reach its cache and remotes, and check that it can use the folder.

Only this module and `pipeline` call DVC.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

from flows.checkout import commits
from flows.checkout.commits import VersionsError
from flows.checkout.files import md5_of

LOCK = Path("dvc.lock")
PIPELINE = Path("dvc.yaml")
HINTS = (
    "Generating lock file", "Updating lock file", "Use `dvc push`",
    "To track the changes with git", "git add ", "To enable auto staging", "dvc config core.autostage",
)  # fmt: skip
"""Beginnings of the hints that DVC prints after every stage, although a person needs them once a run at most."""
LINKS = ["reflink", "hardlink", "copy"]
"""How DVC brings files out of its cache, the preferred way first, unless a person has configured it."""
RELAY_PATIENCE = 2.0
"""Seconds to wait for the last lines of output if some process still holds the descriptor."""
REMEDIES = {
    LOCK.name: "restore it with git, or remove it: what DVC's cache holds is not computed again",
    PIPELINE.name: "restore it with git: `git checkout HEAD dvc.yaml`",
    ".dvc', YAML": "take one side with `git checkout --ours` or `--theirs` and its name, or remove it",
    "validation failed": "it is not as DVC writes it: restore it with git, or remove it",
    "not a git repository": "run `git init` in this folder, or `dvc config core.no_scm true` to do without git",
    "not inside of a DVC repository": "restore the folder .dvc with git, or run `dvc init` in this folder",
    "overlapping with": "remove the one that is not dvc.yaml's or an ingest's: `dvc remove` and its .dvc file",
    "git-ignored": "take the line that ignores it out of .gitignore",
}
"""Words in DVC's error message -> what to do about it; the first match counts."""


def dvc(*arguments: str) -> list[str]:
    """Return the command line of the DVC in this Python environment, whatever PATH says."""
    return [sys.executable, "-m", "dvc", *arguments]


@contextmanager
def without_hints() -> Iterator[int]:
    """Yield a file descriptor for DVC's output; everything written to it is printed except blank lines and hints."""
    reader, writer = os.pipe()

    def relay() -> None:
        with open(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip() and not line.strip().startswith(HINTS):
                    print(line, end="", flush=True)

    thread = Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield writer
    finally:
        os.close(writer)
        thread.join(RELAY_PATIENCE)


def stage_environment() -> dict[str, str]:
    """Return environment variables in which `python` in a stage's command means this interpreter."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def run_dvc(*arguments: str) -> str:
    """Run DVC and return what it printed. Raises VersionsError with DVC's error line if it fails."""
    done = subprocess.run(dvc(*arguments), capture_output=True, text=True, env=stage_environment(), check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise VersionsError(f"`dvc {' '.join(arguments)}` failed: {lines[0].removeprefix('ERROR: ')}")
    return done.stdout


def add_data(*places: Path) -> None:
    """Save a new data version: write the content hashes to `<place>.dvc` and the bytes to DVC's cache."""
    run_dvc("--quiet", "--wait-for-lock", "add", *map(str, places))


def cache_of(folder: Path) -> Path:
    """Return the folder of DVC's cache, as configured in the checkout `folder`."""
    with open_repo(folder) as repo:
        return Path(repo.cache.local_cache_dir).resolve()


def share_config(checkout: Path, folder: Path, cache: Path) -> None:
    """Give DVC in `folder` the remotes of the checkout, and `cache` as its cache.

    Copies the remotes and everything in config.local, credentials included; relative paths keep their meaning.
    """
    from dvc.config import Config

    with open_repo(checkout) as repo:
        shared, own = repo.config.load_one("repo"), repo.config.load_one("local")
        kind = repo.config["cache"].get("type", LINKS)
    remotes = shared["remote"] | {name: shared["remote"].get(name, {}) | it for name, it in own["remote"].items()}
    default = {key: value for key, value in shared["core"].items() if key == "remote"}
    with Config(str(folder / ".dvc")).edit("local") as config:
        config.clear()
        config.update(own | {"core": default | own["core"], "remote": remotes})
        config["cache"] = own["cache"] | {"dir": str(cache), "type": kind}
    if (private := checkout / ".dvc" / "config.local").exists():
        shutil.copymode(private, folder / ".dvc" / "config.local")


def push_data(*pointers: Path) -> None:
    """Send a data version to the default DVC remote."""
    run_dvc("--quiet", "--wait-for-lock", "push", *map(str, pointers))


def has_remote() -> bool:
    """Whether a default DVC remote is configured."""
    with open_repo() as repo:
        return bool(repo.config["core"].get("remote"))


def data_digest(pointer: Path) -> str:
    """Return DVC's md5 of a data version. Raises VersionsError if a merge or an edit damaged the file."""
    try:
        return str(yaml.safe_load(pointer.read_text())["outs"][0]["md5"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError):
        raise VersionsError(
            f"{pointer} is not as DVC writes it, perhaps since git could not merge it; take one side with "
            f"`git checkout --ours {pointer}` or `--theirs`, or remove it, then run `python -m flows.ingest`"
        ) from None


def data_object(pointer: Path) -> bytes | None:
    """Return the content of a data version that is one file, from DVC's cache or the default remote.

    Returns None if neither has it intact."""
    return Objects().intact(data_digest(pointer))


@contextmanager
def open_repo(folder: Path | None = None) -> Iterator[Any]:
    """Yield DVC's `dvc.repo.Repo` for the folder (default: the current one). Raises VersionsError if DVC refuses."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(folder) as repo:
            yield repo
    except DvcException as error:
        message = first_line(error)
        remedies = [remedy for words, remedy in REMEDIES.items() if words in message]
        raise VersionsError("; ".join([message, *remedies[:1]])) from None


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


class Objects:
    """Read DVC's objects by md5 from its cache or, if it is not there, from the default remote."""

    def __init__(self) -> None:
        from dvc.config import NoRemoteError
        from dvc.repo import Repo

        with Repo() as repo:
            self.cache = Path(repo.cache.local.path).parents[1]
            """The cache folder, which another checkout can use as a DVC remote."""
            self._places = {"the DVC cache": repo.cache.local}
            with suppress(NoRemoteError):
                self._places["the DVC remote"] = repo.cloud.get_remote_odb()

    def places(self) -> str:
        return " or ".join(self._places)

    def read(self, md5: str) -> tuple[str, bytes] | None:
        """Return where the object was found and its unchecked content, or None if no reachable place has it."""
        for place, objects in self._places.items():
            with suppress(OSError), objects.fs.open(objects.oid_to_path(md5), "rb") as file:
                return place, bytes(file.read())
        return None

    def intact(self, md5: str) -> bytes | None:
        """Return the object's content, or None if no place has it or the first that has it holds other bytes."""
        held = self.read(md5)
        same = held is not None and md5_of(held[1]) == md5.removesuffix(".dir")
        return held[1] if held is not None and same else None


def require_repository(*places: Path) -> None:
    """Raise VersionsError unless DVC could add the places to this folder now, and keep what the stages write.

    Checks what `dvc add` and `dvc repro` check after the work: this is a repository, each of DVC's files is
    well-formed, no other data of DVC overlaps, git tracks none of the places, and the cache can be written.
    """
    with open_repo() as repo:
        try:
            _ = repo.scm
        except Exception as error:  # raised by DVC or by its git library
            raise VersionsError(f"{first_line(error)}; {REMEDIES['not a git repository']}") from None
        with folders_in_place({place.parent for place in places}):
            require_addable(repo, places)
        outs = [out.def_path for out in repo.index.outs if out.use_cache and out.is_in_repo]
        if kept := commits.git("ls-files", "--", *outs, *map(str, places)):
            raise VersionsError(
                f"git keeps {kept.splitlines()[0]}, which is for DVC to keep; take it out of git, not off the disk, "
                "with `git rm -r --cached`, and commit that"
            )
        for folder in (Path(repo.cache.local.path), Path(repo.tmp_dir)):
            require_writable(folder)


def require_addable(repo: Any, places: Sequence[Path]) -> None:
    """Make the checks that `dvc add` makes before it adds the places."""
    from dvc.repo.add import get_or_create_stage, translate_graph_error

    stages = [get_or_create_stage(repo, str(place)).stage for place in places]
    with translate_graph_error(stages):
        repo.check_graph(stages)


@contextmanager
def folders_in_place(folders: Iterable[Path]) -> Iterator[None]:
    """Create missing folders for the length of the block: DVC does not check data in a folder that is missing."""
    made = [folder for folder in folders if not folder.exists()]
    for folder in made:
        folder.mkdir()
    try:
        yield
    finally:
        for folder in made:
            folder.rmdir()


def require_writable(folder: Path) -> None:
    """Raise VersionsError unless a file can be created in the folder, or in its nearest parent if it is missing.

    Tries it, because for root every folder looks writable."""
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError as error:
        raise VersionsError(
            f"{folder} cannot be written to ({error.strerror}); make {place} a folder that you may write to"
        ) from None
