"""A fresh checkout of the working tree, to run the line in: what git would clone, plus what is not committed yet."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.checkout import listed

ROOT = Path(__file__).resolve().parents[1]


def fresh_clone(folder: Path, settings: Path | None = None, root: Path = ROOT) -> Path:
    """Copy every tracked and unignored file of the checkout `root` into `folder`, optionally with other settings, and
    commit it there."""
    grown = ("dvc.lock", "data/raw.dvc", "data/split.csv.dvc", "data/.gitignore")  # by a run of the line there
    for name in listed(root):
        if (root / name).exists() and name not in grown:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    if settings is not None:
        shutil.copy(settings, folder / "params.yaml")
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "clone"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """This environment's programs, with homes inside the clone: nothing outside it is read or written."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(folder / ".prefect-home"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_WAIT_POLICY": "passive",
    }


def run(folder: Path, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python <arguments>` in the clone."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(folder) | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{arguments} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
    return done
