"""Make the section on the lineage: the model's history in dvc.lock, checked against the files in this folder."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from components.settings.params import Params
from components.settings.variants import SEARCHED
from flows.checkout import commits, files, paths, pipeline, versions
from flows.lineage import walk
from flows.lineage.walk import Finding, StageRun, Step
from flows.report.parts import Maker, Part, Tree

STAGE = f"train@{SEARCHED}"
"""The stage that writes the model."""


class Workspace:
    """`flows.lineage.walk.Evidence` from this folder alone, without MLflow, the images, or other versions."""

    version = 0
    title = "an earlier version, which flows.audit looks for"
    """Stands in the tree for an earlier version that a search was kept from; the walk ends there."""

    def __init__(self) -> None:
        text = versions.LOCK.read_text(encoding="utf-8")
        self.stages: dict[str, pipeline.Lock] = yaml.safe_load(text)["stages"]

    def maker(self, path: str, md5: str) -> StageRun | None:
        for name, lock in self.stages.items():
            outs = pipeline.hashes(lock, "outs")
            if outs.get(path) == md5:
                key, deps = pipeline.stage_key(lock), pipeline.hashes(lock, "deps")
                return StageRun(run=name, name=name, key=key, commit="", deps=deps, outs=outs)
        return None

    def locked(self, stage: str) -> pipeline.Lock | None:
        return self.stages.get(stage)

    def settings(self) -> Mapping[str, Any] | None:
        settings: dict[str, Any] = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))
        return settings

    def order(self) -> list[str]:
        return list(self.stages)

    def stored(self, path: str, md5: str) -> Finding:
        place = Path(path)
        if place.is_dir():
            return Finding(verdict="ok", subject=path, detail="a folder, which is not read here")
        return self.here(place, md5)

    def code(self, commit: str, path: str, md5: str) -> Finding:
        return self.here(Path(path), md5)

    def here(self, place: Path, md5: str) -> Finding:
        if not place.is_file():
            return Finding(verdict="gap", subject=str(place), detail="is not here")
        found = files.md5_of(place.read_bytes())
        if found != md5:
            return Finding(
                verdict="mismatch",
                subject=str(place),
                detail=f"is not what dvc.lock names ({found[:8]}, not {md5[:8]})",
            )
        return Finding(verdict="ok", subject=str(place), detail=md5)

    def data(self, path: str, md5: str) -> tuple[Finding, ...]:
        pointer = paths.DATA[Path(path)]
        found = versions.data_digest(pointer) if pointer.exists() else "none"
        same = found == md5
        detail = f"names {'this' if same else 'another'} version{'' if same else f', {found}'}"
        return (Finding(verdict="ok" if same else "mismatch", subject=str(pointer), detail=detail),)

    def frozen(self) -> Collection[str]:
        if not versions.PIPELINE.exists():
            return ()
        return pipeline.frozen_stages(yaml.safe_load(versions.PIPELINE.read_text(encoding="utf-8")))

    def origin(self, stage: str) -> "Workspace":
        return self

    def kept(self) -> tuple[Finding, ...]:
        return ()


def trace(evidence: Workspace) -> Step:
    """Return the model's history as dvc.lock records it. Raises KeyError if the model is not in dvc.lock."""
    return next(walk.trace(paths.MODEL.as_posix(), locked_md5(evidence), evidence))


def locked_md5(evidence: Workspace) -> str:
    return pipeline.hashes(evidence.stages[STAGE], "outs")[paths.MODEL.as_posix()]


def tree(params: Params) -> Iterator[Part]:
    evidence = Workspace()
    root = trace(evidence)
    findings = list(root.all_findings())
    bad = sum(finding.verdict != "ok" for finding in findings)
    whole = "Everything here is what dvc.lock names." if not bad else f"{bad} of them differ: run `dvc repro`."
    yield Tree(
        root=root,
        caption=f"The model's md5 is {locked_md5(evidence)}. {len(findings)} checks of links, "
        f"settings, code and files in this folder. {whole} "
        f"Code: {code()}. "
        f"`python -m flows.audit models:/{params.publish.model}@champion` reads every byte, the images included.",
    )


def code() -> str:
    """Name the commit of the code in this folder."""
    tags = commits.code_tags()
    if tags["git.commit"] == commits.UNKNOWN:
        return "unknown, since git does not say which commit this is"
    edits = ", with edits that were not committed" if tags["git.dirty"] == "true" else ""
    return f"git commit {tags['git.commit']}{edits}"


MAKERS: dict[str, Maker] = {"the lineage": tree}
