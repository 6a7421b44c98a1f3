"""What DVC knows of the stages of dvc.yaml: their order, what each would be given now, what it wrote."""

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
"""A stage's entry in dvc.lock: cmd, deps, params and, once it has run, outs."""


def stage_order() -> list[str]:
    """The pipeline's stages in the order in which `dvc repro` runs them."""
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
    from dvc.stage import PipelineStage

    with versions.opened() as repo:
        plan = plan_repro(get_active_graph(repo.index.graph), collect_stages(repo, [PIPELINE.name]))
        return [stage.addressing for stage in plan if isinstance(stage, PipelineStage)]


def unchanged(name: str) -> bool:
    """Whether `dvc repro` would skip the stage; asked here, since a process for each answer takes a second. False too
    while another DVC holds the folder: `dvc repro` can wait."""
    from dvc.lock import LockError

    with versions.opened() as repo:
        try:
            with repo.lock:
                return not repo.stage.load_one(name=name).changed()
        except LockError:
            return False


def restore(name: str) -> None:
    """What dvc.lock says that the stage wrote, as far as DVC's cache has it: DVC removed it before the run that failed.
    Nothing where there is no such entry, or where another DVC holds the folder."""
    if locked_stage(name) is not None:
        with suppress(VersionsError), versions.opened() as repo:
            repo.checkout(targets=[name], force=True, allow_missing=True)


def stage_inputs(name: str) -> Lock:
    """What a stage would be given now, hashed now: command, dependencies and parameters, as dvc.lock would say it."""
    from dvc.stage.serialize import to_single_stage_lockfile

    with versions.opened() as repo:
        stage = repo.stage.load_one(name=name)
        stage.save_deps()
        stage.outs = []  # an output is no input, and may not exist yet
        lock: Lock = json.loads(json.dumps(to_single_stage_lockfile(stage)))
        return lock


def output_paths(name: str) -> list[Path]:
    """What the stage writes."""
    with versions.opened() as repo:
        return [Path(out.def_path) for out in repo.stage.load_one(name=name).outs]


def unsaved_outputs(*names: str) -> dict[str, list[tuple[Path, str]]]:
    """Stage, of those given or of all -> path and md5 of every file in its outputs that DVC's cache does not hold:
    what a run would lose."""
    with versions.opened() as repo:
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
    with versions.opened() as repo:
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


def lock_digest() -> str | None:
    """sha256 of dvc.lock, None before the first stage ran."""
    return files.digest(LOCK) if LOCK.exists() else None
