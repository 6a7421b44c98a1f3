"""Where a deployment works: a git worktree of its own, at a commit, beside the checkout.

A person's edits never reach it. DVC's cache, remotes and credentials and MLflow's store are the checkout's, so that
what one computed the other need not. What a promoted run was made of is committed there and tagged
`retrain/<model>/<version>`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from components.params import Params
from flows import paths, versions
from flows.settings import load_params

IDENTITY = ("-c", "user.name=assembly-line", "-c", "user.email=assembly-line@localhost")
RECORDED = ("dvc.lock", "dvc.yaml", "data/raw.dvc", "params.yaml", *map(str, paths.STARTS.values()))
"""What reproduces a model, together with the code of the commit."""
REUSED = tuple(paths.SEARCHES)
"""Whose results `retrain.search: reuse` keeps."""


def beside(checkout: Path) -> Path:
    """The workspace's usual place."""
    return checkout.with_name(f"{checkout.name}.retrain")


@contextmanager
def occupied(workspace: Path) -> Iterator[None]:
    """One deployment at a time. Raises ValueError."""
    try:
        with FileLock(workspace.with_name(f".{workspace.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise ValueError(f"another retrain is running in {workspace.name}; this one is left out") from None


def prepare(checkout: Path, workspace: Path, revision: str) -> str:
    """Bring the workspace to the revision, results and data left as they are; returns the commit.

    Raises VersionsError, ValueError.
    """
    commit = versions.require_git(checkout, "rev-parse", "--verify", f"{revision}^{{commit}}")
    if not (workspace / ".git").exists():
        versions.require_git(checkout, "worktree", "prune")
        versions.require_git(checkout, "worktree", "add", "--quiet", "--detach", str(workspace), commit)
    versions.require_git(workspace, "checkout", "--quiet", "--force", "--detach", commit)
    versions.share_config(checkout, workspace, versions.cache_of(checkout))
    link_data(checkout, workspace)
    return commit


def link_data(checkout: Path, workspace: Path) -> None:
    """A relative data.path means the checkout's folder, which git does not know."""
    path = load_params(workspace / paths.PARAMS).data.path
    if path is None or Path(path).is_absolute() or (workspace / path).exists():
        return
    (workspace / path).parent.mkdir(parents=True, exist_ok=True)
    (workspace / path).symlink_to((checkout / path).resolve())


def begin_from_last(workspace: Path, search: str) -> None:
    """Take up what the last promoted run knew, and freeze or unfreeze the searches. Raises ValueError."""
    last = newest_tag(workspace)
    if last and not (workspace / versions.LOCK).exists():
        (workspace / versions.LOCK).write_text(versions.require_git(workspace, "show", f"{last}:dvc.lock") + "\n")
    if search != "reuse":
        return  # the checkout's dvc.yaml freezes nothing
    if not (workspace / versions.LOCK).exists():
        raise ValueError("retrain.search is reuse, but there is no version to reuse; retrain once with fresh")
    run(workspace, *versions.dvc("freeze", "--quiet", *REUSED))
    run(workspace, *versions.dvc("checkout", "--quiet", *REUSED))


def newest_tag(folder: Path) -> str | None:
    """The last promoted run's tag, None before the first."""
    tags = versions.require_git(folder, "tag", "--list", "retrain/*", "--sort=-creatordate").split()
    return tags[0] if tags else None


def warm_from(workspace: Path, params: Params, champion: str | None) -> str | None:
    """The tag of the version that warm searches start from: the one in service, if a deployment made it."""
    if params.retrain.search != "warm" or champion is None:
        return None
    return versions.require_git(workspace, "tag", "--list", tag_of(params.publish.model, champion)) or None


def tag_of(model: str, version: str) -> str:
    return f"retrain/{model.replace(' ', '-')}/{version}"


def begin(workspace: Path) -> None:
    """From here to `finish` the data may be newer than any version that was trained on them."""
    (workspace / paths.UNFINISHED).parent.mkdir(parents=True, exist_ok=True)
    (workspace / paths.UNFINISHED).touch()


def finish(workspace: Path) -> None:
    (workspace / paths.UNFINISHED).unlink()


def record(workspace: Path, model: str, version: str) -> str:
    """Commit what the version was made of and tag the commit; returns the tag, which stays where it is if it exists."""
    tag = tag_of(model, version)
    if versions.require_git(workspace, "tag", "--list", tag):
        return tag
    present = [name for name in RECORDED if (workspace / name).exists()]
    versions.require_git(workspace, "add", "--force", "--", *present)
    message = f"{model} version {version}, by the scheduled retrain"
    versions.require_git(workspace, *IDENTITY, "commit", "--quiet", "--no-verify", "--allow-empty", "-m", message)
    versions.require_git(workspace, *IDENTITY, "tag", "--annotate", tag, "-m", message)
    return tag


def environment(checkout: Path) -> dict[str, str]:
    """In which a retrain of the workspace runs: the checkout's MLflow store, unless the environment names one."""
    store = f"sqlite:///{(checkout / paths.STORE / 'mlflow.db').as_posix()}"
    own = versions.stage_environment() | {"MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or store}
    return {name: value for name, value in own.items() if name != "PYTHONPATH"}  # its own code, not ours


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=versions.stage_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise versions.VersionsError(f"`{' '.join(command[2:])}` failed in {folder.name}: {done.stderr.strip()}")
