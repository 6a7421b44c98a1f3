"""What DVC does for the line: commands, data versions, its cache and remotes, and what it asks of the folder.

Only this module and `pipeline` call DVC.
"""

import hashlib
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

LOCK = Path("dvc.lock")
PIPELINE = Path("dvc.yaml")
HINTS = (
    "Generating lock file", "Updating lock file", "Use `dvc push`",
    "To track the changes with git", "git add ", "To enable auto staging", "dvc config core.autostage",
)  # fmt: skip
"""How the lines begin that DVC repeats after every stage, of what a person does once a run, if at all."""
LINKS = ["reflink", "hardlink", "copy"]
"""How files come out of DVC's cache, unless a person has set it."""
RELAYED = 2.0
"""Seconds in which the last lines are printed, if something still holds the descriptor."""
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
"""Words of DVC's complaint -> what to do; the first that fits."""


def dvc(*arguments: str) -> list[str]:
    """The command line of this environment's DVC, whatever PATH says."""
    return [sys.executable, "-m", "dvc", *arguments]


@contextmanager
def without_hints() -> Iterator[int]:
    """A file descriptor for DVC's output; all that is written there is printed, but blank lines and hints."""
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
        thread.join(RELAYED)


def stage_environment() -> dict[str, str]:
    """The environment in which `python` of a stage's command is this one."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def run_dvc(*arguments: str) -> str:
    """Run DVC to its end and return what it printed; `VersionsError` with its own last line when it fails."""
    done = subprocess.run(dvc(*arguments), capture_output=True, text=True, env=stage_environment(), check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise VersionsError(f"`dvc {' '.join(arguments)}` failed: {lines[0].removeprefix('ERROR: ')}")
    return done.stdout


def add_data(*places: Path) -> None:
    """Make them a new data version: their content hashes go into `<place>.dvc`, their bytes into DVC's cache."""
    run_dvc("--quiet", "--wait-for-lock", "add", *map(str, places))


def cache_of(folder: Path) -> Path:
    """Where DVC keeps the objects of a checkout, as it is configured there."""
    with opened(folder) as repo:
        return Path(repo.cache.local_cache_dir).resolve()


def share_config(checkout: Path, folder: Path, cache: Path) -> None:
    """Let DVC in another folder reach what it reaches in the checkout, and keep its objects in `cache`.

    Remotes and everything in config.local, credentials included; paths mean what they mean in the checkout.
    """
    from dvc.config import Config

    with opened(checkout) as repo:
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
    with opened() as repo:
        return bool(repo.config["core"].get("remote"))


def data_digest(pointer: Path) -> str:
    """DVC's md5 of a data version. Raises VersionsError where a merge or an edit left no such file."""
    try:
        return str(yaml.safe_load(pointer.read_text())["outs"][0]["md5"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError):
        raise VersionsError(
            f"{pointer} is not as DVC writes it, perhaps since git could not merge it; take one side with "
            f"`git checkout --ours {pointer}` or `--theirs`, or remove it, then run `python -m flows.ingest`"
        ) from None


def data_object(pointer: Path) -> bytes | None:
    """What a data version of one file holds, from DVC's cache or the default remote; None if neither has it intact."""
    return Objects().intact(data_digest(pointer))


@contextmanager
def opened(folder: Path | None = None) -> Iterator[Any]:
    """DVC's view of the folder, or of this one (`dvc.repo.Repo`); `VersionsError` where it cannot have one."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(folder) as repo:
            yield repo
    except DvcException as error:
        said = first_line(error)
        remedies = [remedy for words, remedy in REMEDIES.items() if words in said]
        raise VersionsError("; ".join([said, *remedies[:1]])) from None


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


class Objects:
    """DVC's objects by md5: in its cache, else in the default remote."""

    def __init__(self) -> None:
        from dvc.config import NoRemoteError
        from dvc.repo import Repo

        with Repo() as repo:
            self.cache = Path(repo.cache.local.path).parents[1]
            """What a DVC remote of another checkout may point at."""
            self._places = {"the DVC cache": repo.cache.local}
            with suppress(NoRemoteError):
                self._places["the DVC remote"] = repo.cloud.get_remote_odb()

    def places(self) -> str:
        return " or ".join(self._places)

    def read(self, md5: str) -> tuple[str, bytes] | None:
        """Where the object lies and what it holds, unchecked; None if no place that can be reached has it."""
        for place, objects in self._places.items():
            with suppress(OSError), objects.fs.open(objects.oid_to_path(md5), "rb") as file:
                return place, bytes(file.read())
        return None

    def intact(self, md5: str) -> bytes | None:
        """What the object holds; None where no place has it, or the first that has it holds other bytes."""
        held = self.read(md5)
        same = held is not None and hashlib.md5(held[1]).hexdigest() == md5.removesuffix(".dir")
        return held[1] if held is not None and same else None


def require_repository(*places: Path) -> None:
    """Raise VersionsError unless DVC could add the places to this folder now, and keep what the stages write.

    Asked as `dvc add` and `dvc repro` ask when the work is done: is this a repository, is each file of DVC's
    well-formed, does no other data of DVC's overlap, does git keep none of it itself, can the cache be written?
    """
    with opened() as repo:
        try:
            _ = repo.scm
        except Exception as error:  # DVC's, or of the library below it
            raise VersionsError(f"{first_line(error)}; {REMEDIES['not a git repository']}") from None
        with standing({place.parent for place in places}):
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
    """What `dvc add` asks before it takes them."""
    from dvc.repo.add import get_or_create_stage, translate_graph_error

    stages = [get_or_create_stage(repo, str(place)).stage for place in places]
    with translate_graph_error(stages):
        repo.check_graph(stages)


@contextmanager
def standing(folders: Iterable[Path]) -> Iterator[None]:
    """The folders are there within the block: DVC says nothing of data in a folder that is not."""
    made = [folder for folder in folders if not folder.exists()]
    for folder in made:
        folder.mkdir()
    try:
        yield
    finally:
        for folder in made:
            folder.rmdir()


def require_writable(folder: Path) -> None:
    """Raise VersionsError unless files can be made in the folder, or where it would be; tried, since for root every
    folder looks so."""
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError as error:
        raise VersionsError(
            f"{folder} cannot be written to ({error.strerror}); make {place} a folder that you may write to"
        ) from None
