"""The only caller of DVC and git: what the bytes are, which stages there are, and what a stage was given."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

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
UNKNOWN = "unknown"
"""Where git was not asked, or did not answer: never a clean commit."""
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
Lock = Mapping[str, Any]
"""A stage's entry in dvc.lock: cmd, deps, params and, once it has run, outs."""


class VersionsError(ValueError):
    """DVC or git refused; the message says what to do."""


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


def stage_order() -> list[str]:
    """The pipeline's stages in the order in which `dvc repro` runs them."""
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
    from dvc.stage import PipelineStage

    with opened() as repo:
        plan = plan_repro(get_active_graph(repo.index.graph), collect_stages(repo, [PIPELINE.name]))
        return [stage.addressing for stage in plan if isinstance(stage, PipelineStage)]


def unchanged(name: str) -> bool:
    """Whether `dvc repro` would skip the stage; asked here, since a process for each answer takes a second. False too
    while another DVC holds the folder: `dvc repro` can wait."""
    from dvc.lock import LockError

    with opened() as repo:
        try:
            with repo.lock:
                return not repo.stage.load_one(name=name).changed()
        except LockError:
            return False


def restore(name: str) -> None:
    """What dvc.lock says that the stage wrote, as far as DVC's cache has it: DVC removed it before the run that failed.
    Nothing where there is no such entry, or where another DVC holds the folder."""
    if locked_stage(name) is not None:
        with suppress(VersionsError), opened() as repo:
            repo.checkout(targets=[name], force=True, allow_missing=True)


def stage_inputs(name: str) -> Lock:
    """What a stage would be given now, hashed now: command, dependencies and parameters, as dvc.lock would say it."""
    from dvc.stage.serialize import to_single_stage_lockfile

    with opened() as repo:
        stage = repo.stage.load_one(name=name)
        stage.save_deps()
        stage.outs = []  # an output is no input, and may not exist yet
        lock: Lock = json.loads(json.dumps(to_single_stage_lockfile(stage)))
        return lock


def output_paths(name: str) -> list[Path]:
    """What the stage writes."""
    with opened() as repo:
        return [Path(out.def_path) for out in repo.stage.load_one(name=name).outs]


def unsaved_outputs(*names: str) -> dict[str, list[tuple[Path, str]]]:
    """Stage, of those given or of all -> path and md5 of every file in its outputs that DVC's cache does not hold:
    what a run would lose."""
    with opened() as repo:
        stages = {stage.addressing: stage for stage in repo.index.stages if stage.cmd}  # read once: the lock is long
        return {name: [one for out in stages[name].outs for one in unsaved(out)] for name in names or stages}


def unsaved(out: Any) -> list[tuple[Path, str]]:
    """The same of one output (`dvc.output.Output`), a file or a folder; none where it is what dvc.lock says, which a
    stage wrote, whatever became of the cache."""
    from dvc_data.hashfile.build import build

    if not out.exists:
        return []
    _, _, built = build(out.cache, out.fs_path, out.fs, out.hash_name, ignore=out.dvcignore, dry_run=True)
    if built.hash_info == out.hash_info:
        return []
    listed: Any = built
    files: Any = [((), built.hash_info)] if out.isfile() else [(key, info) for key, _, info in listed]
    return [(Path(out.def_path, *key), info.value) for key, info in files if not out.cache.exists(info.value)]


def output_hashes(name: str) -> dict[str, str]:
    """Path -> md5 of what the stage has written, as dvc.lock will say it."""
    with opened() as repo:
        return {out.def_path: out.get_hash().value for out in repo.stage.load_one(name=name).outs}


def frozen_stages(pipeline: Mapping[str, Any]) -> set[str]:
    """Of dvc.yaml's stages those that DVC neither runs nor finds out of date."""
    return {name for name, stage in pipeline.get("stages", {}).items() if stage.get("frozen")}


def locked_stage(name: str) -> Lock | None:
    """The stage's entry in dvc.lock, None before its first run."""
    if not LOCK.exists():
        return None
    lock: Lock | None = yaml.safe_load(LOCK.read_text())["stages"].get(name)
    return lock


def stage_key(lock: Lock) -> str:
    """sha256 over command, dependency hashes and parameters: two runs with one key had the same inputs."""
    inputs = {part: lock.get(part) for part in ("cmd", "deps", "params")}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def hashes(lock: Lock, part: str) -> dict[str, str]:
    """Path -> md5 of a stage's `deps` or `outs`."""
    return {entry["path"]: entry["md5"] for entry in lock.get(part, [])}


def written(stages: Mapping[str, Lock]) -> dict[str, str]:
    """Path -> md5 of what the stages of a dvc.lock have written."""
    return {path: md5 for lock in stages.values() for path, md5 in hashes(lock, "outs").items()}


def changed(before: Lock, after: Lock) -> list[str]:
    """Paths and parameters that are not what they were."""
    old, new = hashes(before, "deps"), hashes(after, "deps")
    paths = [path for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)]
    return paths if before.get("params") == after.get("params") else [*paths, "params.yaml"]


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


def blob(commit: str, path: str) -> bytes | None:
    """A file as the commit has it, None if git has no such commit or file."""
    done = subprocess.run(["git", "show", f"{commit}:{path}"], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def check_out(commit: str, folder: Path) -> None:
    """The commit's files in another folder, a repository of its own; VersionsError if git cannot."""
    root = git("rev-parse", "--show-toplevel")
    if root is None:
        raise VersionsError("this folder is no git repository; a commit cannot be checked out of it")
    clone = ["clone", "--quiet", "--shared", "--no-checkout", root, str(folder)]
    for arguments in (clone, ["-C", str(folder), "checkout", "--quiet", "--detach", commit]):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise VersionsError(f"git cannot check out commit {commit}: {done.stderr.strip()}")


def lock_digest() -> str | None:
    """sha256 of dvc.lock, None before the first stage ran."""
    return digest(LOCK) if LOCK.exists() else None


def digest(file: Path) -> str:
    """sha256 of a file."""
    return sha256(file.read_bytes())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
        if kept := git("ls-files", "--", *outs, *map(str, places)):
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


def code_tags() -> dict[str, str]:
    """Which code this is: the commit, and whether a tracked file differs from it; `unknown` where git does not say."""
    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    dirty = UNKNOWN if commit is None or status is None else str(bool(status)).lower()
    return {"git.commit": commit or UNKNOWN, "git.dirty": dirty}


def git_complaint() -> str | None:
    """Why git does not say which code this is, in its own words; None where it does."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "git is not installed"
    if done.returncode == 0:
        return None
    return done.stderr.strip() if git("rev-parse", "--git-dir") is None else "there is no commit yet"


def warn_of_git() -> None:
    """Say once that git does not say which code this is, if it does not: the work goes on without."""
    if complaint := git_complaint():
        said = complaint.splitlines()[0]
        print(f"warning: git does not say which code this is ({said}); lineage will say `unknown`", file=sys.stderr)


def git(*arguments: str) -> str | None:
    """What git prints, None outside a repository, without git or without a commit."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def require_git(folder: Path, *arguments: str) -> str:
    """What git prints in the folder; `VersionsError` with its own sentence when it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise VersionsError("git is not installed; the deployments work in a git worktree") from None
    if done.returncode != 0:
        raise VersionsError(f"`git {' '.join(arguments)}` failed in {folder.name}: {done.stderr.strip()}")
    return done.stdout.strip()
