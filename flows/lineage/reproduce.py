"""Compute a registered model again in a temporary folder, and compare its bytes."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.checkout import commits, files, paths, pipeline, versions
from flows.checkout.roster import MEASURES
from flows.lineage.records import PREFIX, STAGE, Records, mapping
from flows.lineage.walk import Finding
from flows.release.registry import NONE
from flows.runtime import processes

MEASURED = MEASURES
"""Stages whose recorded results are reused, because measured times can never be reproduced exactly."""


def reproduce(records: Records) -> Finding:
    """Compute the model again from the commit, the archived settings, the images and the recorded latencies."""
    wanted = records.tags.get("md5", NONE)
    with processes.guarded(), tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        checkout = Path(folder) / "checkout"
        commits.check_out(records.tags.get("git.commit", NONE), checkout)
        for name in (key.removeprefix(PREFIX) for key in records.tags if key.startswith(PREFIX)):
            if (content := records.archived(name)) is not None:
                (checkout / name).parent.mkdir(parents=True, exist_ok=True)
                (checkout / name).write_bytes(content)
        versions.share_config(Path(), checkout, checkout / ".dvc" / "cache")
        given = [str(pointer) for pointer in paths.DATA.values() if (checkout / pointer).exists()]
        measured = [word for word in MEASURED if word in records.lock]  # older versions had no plan
        pull(checkout, records.objects.cache, [*given, *measured, *sorted(records.frozen())])
        run_in(checkout, "repro", STAGE)
        found = files.md5_of((checkout / paths.MODEL).read_bytes())
        if found == wanted:
            return Finding(verdict="ok", subject="the model computed anew", detail=f"md5 {found}, the same")
        now = mapping((checkout / versions.LOCK).read_bytes())["stages"]
        detail = f"md5 {found}, registered {wanted}; {first_difference(records.lock, now)}"
        return Finding(verdict="mismatch", subject="the model computed anew", detail=detail)


def pull(checkout: Path, cache: Path, targets: Sequence[str]) -> None:
    """Fetch what is not computed again, from this checkout's cache or, if that no longer has it, from its remote."""
    run_in(checkout, "remote", "add", "--local", "here", str(cache.resolve()))
    try:
        run_in(checkout, "pull", "--remote", "here", *targets)
    except commits.VersionsError:
        run_in(checkout, "pull", *targets)


def run_in(folder: Path, *arguments: str) -> None:
    """Run DVC in another checkout, whose stages log to their own store; they end if this process ends."""
    own = {"MLFLOW_TRACKING_URI": f"sqlite:///{(folder / paths.STORE / 'mlflow.db').as_posix()}"}
    if processes.run_group(versions.dvc(*arguments), versions.stage_environment() | own, folder) != 0:
        raise commits.VersionsError(f"`dvc {' '.join(arguments)}` failed in {folder.name}; what it printed is above")


def first_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Name the earliest stage whose outputs differ."""
    for name, lock in before.items():
        own, now = pipeline.hashes(lock, "outs"), pipeline.hashes(after.get(name, lock), "outs")
        if off := sorted(path for path in own if now.get(path) != own[path]):
            return f"the first stage that differs is {name} ({', '.join(off)})"
    return "no stage before it differs"
