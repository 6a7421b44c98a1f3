"""Ask DVC about the stages of dvc.yaml: their order, their current inputs, and their outputs."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from flows.checkout import files, versions
from flows.checkout.commits import VersionsError
from flows.checkout.versions import LOCK, PIPELINE

Lock = Mapping[str, Any]
"""A stage's entry in dvc.lock: cmd, deps, params and, after it has run, outs."""


def stage_order() -> list[str]:
    """Return the pipeline's stages in the order in which `dvc repro` runs them."""
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
    from dvc.stage import PipelineStage

    with versions.open_repo() as repo:
        plan = plan_repro(get_active_graph(repo.index.graph), collect_stages(repo, [PIPELINE.name]))
        return [stage.addressing for stage in plan if isinstance(stage, PipelineStage)]


def unchanged(name: str) -> bool:
    """Whether `dvc repro` would skip the stage, asked in this process because starting DVC takes a second.

    False while another DVC process has locked the folder: `dvc repro` waits for that lock."""
    from dvc.lock import LockError

    with versions.open_repo() as repo:
        try:
            with repo.lock:
                return not repo.stage.load_one(name=name).changed()
        except LockError:
            return False


def restore(name: str) -> None:
    """Restore a stage's last outputs from DVC's cache, because DVC removed them before the run that failed.

    Does nothing if dvc.lock has no entry for the stage, or while another DVC process has locked the folder."""
    if locked_stage(name) is not None:
        with suppress(VersionsError), versions.open_repo() as repo:
            repo.checkout(targets=[name], force=True, allow_missing=True)


def stage_inputs(name: str) -> Lock:
    """Return the stage's current command, dependencies (hashed now) and parameters in the format of dvc.lock."""
    from dvc.stage.serialize import to_single_stage_lockfile

    with versions.open_repo() as repo:
        stage = repo.stage.load_one(name=name)
        stage.save_deps()
        stage.outs = []  # an output is no input, and may not exist yet
        lock: Lock = json.loads(json.dumps(to_single_stage_lockfile(stage)))
        return lock


def output_paths(name: str) -> list[Path]:
    """Return the stage's output paths."""
    with versions.open_repo() as repo:
        return [Path(out.def_path) for out in repo.stage.load_one(name=name).outs]


def unsaved_outputs(*names: str) -> dict[str, list[tuple[Path, str]]]:
    """Return stage -> path and md5 of each output file that is not in DVC's cache, which a run of it would lose.

    `names` are the stages to look at; all stages if none is given."""
    with versions.open_repo() as repo:
        stages = {stage.addressing: stage for stage in repo.index.stages if stage.cmd}  # read once: the lock is long
        return {name: [one for out in stages[name].outs for one in unsaved_files(out)] for name in names or stages}


def unsaved_files(out: Any) -> list[tuple[Path, str]]:
    """Return path and md5 of each file of one `dvc.output.Output` (a file or folder) that is not in DVC's cache.

    Returns none if the output matches dvc.lock: then a stage wrote it, even if the cache no longer holds it."""
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
    """Return path -> md5 of the stage's outputs on disk, as dvc.lock will record them."""
    with versions.open_repo() as repo:
        return {out.def_path: out.get_hash().value for out in repo.stage.load_one(name=name).outs}


def frozen_stages(pipeline: Mapping[str, Any]) -> set[str]:
    """Return the frozen stages of a dvc.yaml, which DVC never runs and never reports as out of date."""
    return {name for name, stage in pipeline.get("stages", {}).items() if stage.get("frozen")}


def locked_stage(name: str) -> Lock | None:
    """Return the stage's entry in dvc.lock, or None before its first run."""
    if not LOCK.exists():
        return None
    lock: Lock | None = yaml.safe_load(LOCK.read_text())["stages"].get(name)
    return lock


def stage_key(lock: Lock) -> str:
    """Return a sha256 of command, dependency hashes and parameters: runs with equal keys had equal inputs."""
    inputs = {part: lock.get(part) for part in ("cmd", "deps", "params")}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def hashes(lock: Lock, part: str) -> dict[str, str]:
    """Return path -> md5 of a stage's `deps` or `outs`."""
    return {entry["path"]: entry["md5"] for entry in lock.get(part, [])}


def locked_outputs(stages: Mapping[str, Lock]) -> dict[str, str]:
    """Return path -> md5 of all outputs of the stages in a dvc.lock."""
    return {path: md5 for lock in stages.values() for path, md5 in hashes(lock, "outs").items()}


def changed_inputs(before: Lock, after: Lock) -> list[str]:
    """Return the dependencies whose hash differs, and `params.yaml` if a parameter differs."""
    old, new = hashes(before, "deps"), hashes(after, "deps")
    paths = [path for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)]
    return paths if before.get("params") == after.get("params") else [*paths, "params.yaml"]


def lock_digest() -> str | None:
    """Return the sha256 of dvc.lock, or None before the first stage ran."""
    return files.digest(LOCK) if LOCK.exists() else None
