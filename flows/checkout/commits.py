"""What git says: which code this is, and the files of a commit. The only caller of git."""

import subprocess
import sys
from pathlib import Path

UNKNOWN = "unknown"
"""Where git was not asked, or did not answer: never a clean commit."""


class VersionsError(ValueError):
    """DVC or git refused; the message says what to do."""


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
