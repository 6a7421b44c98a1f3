"""Ask git which commit is checked out, and read files from a commit. No other module calls git."""

import subprocess
import sys
from pathlib import Path

UNKNOWN = "unknown"
"""Stands for the commit and for `dirty` where git does not answer, so that neither reads as a clean commit."""


class VersionsError(ValueError):
    """DVC or git refused; the message says what to do."""


def blob(commit: str, path: str) -> bytes | None:
    """Return the content of a file at a commit, or None if git has no such commit or file."""
    done = subprocess.run(["git", "show", f"{commit}:{path}"], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def check_out(commit: str, folder: Path) -> None:
    """Clone the repository into `folder` and check the commit out there. Raises VersionsError if git cannot."""
    root = git("rev-parse", "--show-toplevel")
    if root is None:
        raise VersionsError("this folder is no git repository; a commit cannot be checked out of it")
    clone = ["clone", "--quiet", "--shared", "--no-checkout", root, str(folder)]
    for arguments in (clone, ["-C", str(folder), "checkout", "--quiet", "--detach", commit]):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise VersionsError(f"git cannot check out commit {commit}: {done.stderr.strip()}")


def code_tags() -> dict[str, str]:
    """Return the tags that identify the code: the commit, and whether a tracked file differs from it, or `unknown`."""
    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    dirty = UNKNOWN if commit is None or status is None else str(bool(status)).lower()
    return {"git.commit": commit or UNKNOWN, "git.dirty": dirty}


def git_complaint() -> str | None:
    """Return git's own explanation of why it cannot name the current commit, or None if it can."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "git is not installed"
    if done.returncode == 0:
        return None
    return done.stderr.strip() if git("rev-parse", "--git-dir") is None else "there is no commit yet"


def warn_of_git() -> None:
    """Print a warning if git cannot name the current commit; the work continues without it."""
    if complaint := git_complaint():
        reason = complaint.splitlines()[0]
        print(f"warning: git does not say which code this is ({reason}); lineage will say `unknown`", file=sys.stderr)


def git(*arguments: str) -> str | None:
    """Return what git prints, or None if git is missing or its command fails (no repository, no commit)."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def require_git(folder: Path, *arguments: str) -> str:
    """Run git in `folder` and return what it prints. Raises VersionsError with git's message if it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise VersionsError("git is not installed; the deployments work in a git worktree") from None
    if done.returncode != 0:
        raise VersionsError(f"`git {' '.join(arguments)}` failed in {folder.name}: {done.stderr.strip()}")
    return done.stdout.strip()
