"""Prepare the folder in which a deployment works: a git worktree at a commit, beside the checkout.

A person's uncommitted edits never reach it. It shares DVC's cache, remotes and credentials and MLflow's store with the
checkout, so that nothing is computed twice. The inputs of a promoted run are committed there and tagged
`retrain/<model>/<version>`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from components.settings.params import Params
from flows.checkout import commits, paths, pipeline, versions
from flows.checkout.locks import file_lock
from flows.checkout.roster import SEARCHES
from flows.checkout.settings import load_params
from flows.tracking import connection

IDENTITY = ("-c", "user.name=assembly-line", "-c", "user.email=assembly-line@localhost")
WITHOUT_HOOKS = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", "-c", "tag.gpgSign=false")
"""Options that turn off a person's git hooks and signatures: nobody unlocks a key at night, and DVC's hook replaces
results."""
RECORDED = (
    *map(str, (versions.LOCK, versions.PIPELINE, paths.PARAMS)),
    *map(str, paths.DATA.values()),
)
"""Files that, with the code of the commit, reproduce a model."""
WRITTEN = frozenset(RECORDED) - {str(paths.PARAMS)}
"""Tracked files that a retrain writes in the workspace."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model version in the registry."""

    number: str
    md5: str | None
    """md5 of its file."""


def default_place(checkout: Path) -> Path:
    """Return the default place of the workspace, beside the checkout."""
    return checkout.with_name(f"{checkout.name}.retrain")


@contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """Lock the workspace for one deployment. Raises ValueError if another one uses it."""
    busy = ValueError(f"another retrain is running in {workspace.name}; this one is left out")
    with file_lock(workspace.with_name(f".{workspace.name}.lock"), busy):
        yield


def prepare(checkout: Path, workspace: Path, revision: str) -> str:
    """Check the revision out in the workspace, leaving results and data as they are; return the commit.

    Raises VersionsError if git or DVC fails, ValueError if that would undo a person's edits.
    """
    commit = commits.require_git(checkout, "rev-parse", "--verify", f"{revision}^{{commit}}")
    if not (workspace / ".git").exists():
        commits.require_git(checkout, "worktree", "prune")
        commits.require_git(checkout, *WITHOUT_HOOKS, "worktree", "add", "--quiet", "--detach", str(workspace), commit)
    require_own(checkout, workspace, commit)
    commits.require_git(workspace, *WITHOUT_HOOKS, "checkout", "--quiet", "--force", "--detach", commit)
    versions.share_config(checkout, workspace, versions.cache_of(checkout))
    link_data(checkout, workspace)
    return commit


def require_own(checkout: Path, workspace: Path, commit: str) -> None:
    """Raise ValueError if checking out the commit would undo what a person did in the workspace."""
    common = ("rev-parse", "--path-format=absolute", "--git-common-dir")
    if commits.require_git(workspace, *common) != commits.require_git(checkout, *common):
        raise ValueError(
            f"{workspace} is a git repository of its own, and no place where deployments may check out what they "
            "retrain; give them another folder as `place`"
        )
    edited = list_files(workspace, "diff", "--name-only", "HEAD")
    # ignored files too: a commit may track what was ignored before
    untracked = list_files(workspace, "ls-files", "--others")
    in_the_way = untracked & list_files(workspace, "ls-tree", "-r", "--name-only", commit)
    if foreign := sorted((edited | in_the_way) - WRITTEN):
        raise ValueError(
            f"{foreign[0]} was edited in {workspace}, which is checked out anew for every retrain; move the edit to "
            f"the checkout and commit it, or undo it with `git -C {workspace} checkout {foreign[0]}`"
        )


def list_files(folder: Path, command: str, *arguments: str) -> set[str]:
    """Return the file names that a git command lists."""
    return {name for name in commits.require_git(folder, command, "-z", *arguments).split("\0") if name}


def link_data(checkout: Path, workspace: Path) -> None:
    """Link the checkout's folder into the workspace if data.path is relative, because git does not track it."""
    path = load_params(workspace / paths.PARAMS).data.path
    if path is None or Path(path).is_absolute() or (workspace / path).exists():
        return
    place, source = Path(os.path.normpath(workspace / path)), (checkout / path).resolve()
    if workspace not in place.parents:
        raise ValueError(
            f"data.path is {path!r}, which from {workspace} leads to {place}, where nothing is; give the absolute "
            f"path, {source}"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():  # broken: the checkout was moved, or the source was missing
        place.unlink()
    place.symlink_to(source)


def begin_from_last(workspace: Path, params: Params, served: Served | None) -> None:
    """Restore the splits and the dvc.lock of the last promoted run if they are missing in the workspace.

    With `retrain.search: reuse`, restore and freeze the searches of the version in service. Raises ValueError if no
    deployment made that version.
    """
    model, lock = params.publish.model, workspace / versions.LOCK
    last = newest_tag(workspace, model)
    if last and not (workspace / paths.SPLIT).exists():
        keep_splits(workspace, last)
    if params.retrain.search != "reuse":  # the checkout's dvc.yaml freezes nothing
        if last and not lock.exists():
            lock.write_text(file_of(workspace, last, versions.LOCK))
        return
    tag = served and version_tag(workspace, model, served)
    if not tag:
        raise ValueError(
            "retrain.search is reuse, but no version in service was made by a deployment; retrain once with fresh"
        )
    lock.write_text(file_of(workspace, tag, versions.LOCK))  # the checkout's may belong to any earlier version
    run(workspace, *versions.dvc("freeze", "--quiet", *SEARCHES))
    run(workspace, *versions.dvc("checkout", "--quiet", "--force", *SEARCHES))


def keep_splits(workspace: Path, tag: str) -> None:
    """Write the pointer to the last promoted run's record of splits, from which the next ingest continues."""
    with suppress(commits.VersionsError):  # that run was made before splits were recorded
        pointer = file_of(workspace, tag, paths.SPLIT_DVC)
        (workspace / paths.SPLIT_DVC).parent.mkdir(parents=True, exist_ok=True)
        (workspace / paths.SPLIT_DVC).write_text(pointer)


def newest_tag(folder: Path, model: str) -> str | None:
    """Return the tag of the model's last promoted run, or None before the first."""
    tags = commits.require_git(folder, "tag", "--list", tag_of(model, "*"), "--sort=-creatordate").split()
    return tags[0] if tags else None


def version_tag(workspace: Path, model: str, version: Served) -> str | None:
    """Return the version's tag, or None if it has none. Raises ValueError if the tag belongs to another model."""
    tag = tag_of(model, version.number)
    if not commits.require_git(workspace, "tag", "--list", tag):
        return None
    if model_in(file_of(workspace, tag, versions.LOCK)) != version.md5:
        raise ValueError(
            f"the tag {tag} is of another model than version {version.number} of {model} (of another registry?); "
            f"rename it, or delete it with `git tag --delete {tag}`"
        )
    return tag


def file_of(workspace: Path, revision: str, path: Path) -> str:
    return commits.require_git(workspace, "show", f"{revision}:{path}") + "\n"


def model_in(lock: str) -> str | None:
    """Return the md5 of the model in a dvc.lock."""
    return pipeline.locked_outputs(yaml.safe_load(lock).get("stages", {})).get(paths.MODEL.as_posix())


def tag_of(model: str, version: str) -> str:
    return f"retrain/{model.replace(' ', '-')}/{version}"


def begin(workspace: Path) -> None:
    """Record that a retrain has begun: until `finish`, the data may be newer than those of any trained version."""
    (workspace / paths.UNFINISHED).parent.mkdir(parents=True, exist_ok=True)
    (workspace / paths.UNFINISHED).touch()


def finish(workspace: Path) -> None:
    (workspace / paths.UNFINISHED).unlink()


def record(workspace: Path, model: str, version: str) -> str:
    """Commit the version's inputs and tag the commit, unless the tag exists already; return the tag.

    Raises ValueError if the tag belongs to another model.
    """
    md5 = model_in((workspace / versions.LOCK).read_text())
    if tag := version_tag(workspace, model, Served(number=version, md5=md5)):
        return tag
    tag = tag_of(model, version)
    present = [name for name in RECORDED if (workspace / name).exists()]
    commits.require_git(workspace, "add", "--force", "--", *present)
    message = f"{model} version {version}, by the scheduled retrain"
    commits.require_git(workspace, *WITHOUT_HOOKS, *IDENTITY, "commit", "--quiet", "--allow-empty", "-m", message)
    commits.require_git(workspace, *WITHOUT_HOOKS, *IDENTITY, "tag", "--annotate", tag, "-m", message)
    return tag


def environment(checkout: Path) -> dict[str, str]:
    """Return the environment for a retrain in the workspace: with the checkout's MLflow store, unless one is set."""
    own = versions.stage_environment() | connection.addresses(checkout)
    return {name: value for name, value in own.items() if name != "PYTHONPATH"}  # runs the workspace's code


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=versions.stage_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise commits.VersionsError(f"`{' '.join(command[2:])}` failed in {folder.name}: {done.stderr.strip()}")
