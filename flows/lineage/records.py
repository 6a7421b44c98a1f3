"""Read the records that a walk through a lineage needs: MLflow's runs, DVC's objects, git's commits."""

import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from components.settings.variants import SEARCHED
from flows.checkout import commits, files, paths, pipeline, versions
from flows.lineage import walk
from flows.lineage.walk import Finding, StageRun, Step
from flows.release.registry import NONE
from flows.tracking import connection, models, runs

PREFIX = "archived."
"""Prefix of a model version's tags that hold the sha256 of every file stored with its decision's run."""
STAGE = f"train@{SEARCHED}"
"""The stage that writes the model."""
UNREADABLE = (KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError)
"""Exceptions that reading a record raises if somebody has edited it."""


class Records:
    """All records of a model version: MLflow's records, DVC's objects, git's blobs."""

    def __init__(self, name: str, version: int, objects: versions.Objects) -> None:
        self.name, self.version, self.objects = name, version, objects
        self.title = f"{name} version {version}"
        self.tags: Mapping[str, str] = models.version_tags(name, str(version))

    # ------------------------------------------------------------ the version itself

    def root(self) -> Step:
        """Return the model and its whole history."""
        history = walk.trace(paths.MODEL.as_posix(), self.tags.get("md5", NONE), self)
        return Step(title=self.title, findings=(self.registered_file(), *self.kept()), sources=tuple(history))

    def kept(self) -> tuple[Finding, ...]:
        """Check the version's settings, locks and code."""
        return (*self.archived_files(), self.commit())

    def registered_file(self) -> Finding:
        """Check the file that the registry returns to a user."""
        subject, noted = "the registry's file", self.tags.get("md5", NONE)
        try:
            found = files.md5_of(models.load_version(self.name, str(self.version)).model)
        except (*connection.ERRORS, *UNREADABLE) as error:
            return Finding(verdict="gap", subject=subject, detail=f"cannot be loaded ({connection.reason_of(error)})")
        return compare_hashes(subject, found, noted)

    def archived_files(self) -> Iterator[Finding]:
        """Check the settings and locks that were stored with the decision."""
        names = [key.removeprefix(PREFIX) for key in sorted(self.tags) if key.startswith(PREFIX)]
        for name in {versions.LOCK.as_posix(), paths.PARAMS.as_posix(), *names}:
            subject, content = f"the archived {name}", self.archived(name)
            if content is None:
                run = self.tags.get("gate.run", NONE)
                yield Finding(verdict="gap", subject=subject, detail=f"run {run} does not have it")
                continue
            yield compare_hashes(subject, files.sha256(content), self.tags.get(f"{PREFIX}{name}", NONE), "sha256")

    def commit(self) -> Finding:
        commit = self.tags.get("git.commit", NONE)
        known = commits.git("cat-file", "-e", f"{commit}^{{commit}}") is not None
        edited = ", with edits that were not committed" if self.tags.get("git.dirty") == "true" else ""
        detail = f"is in this repository{edited}" if known else "is not in this repository; fetch it"
        return Finding(verdict="ok" if known else "gap", subject=f"git commit {commit}", detail=detail)

    @cache  # noqa: B019 - as long-lived as an audit
    def archived(self, name: str) -> bytes | None:
        """Return the content of a file stored with the decision's run, or None."""
        run = self.tags.get("gate.run")
        return runs.artifact(run, Path(name).name) if run else None

    # ------------------------------------------------------------ what the walk asks for

    @cached_property
    def lock(self) -> Mapping[str, Any]:
        """The stages of the archived dvc.lock whose entries can be read."""
        found = mapping(self.archived(versions.LOCK.as_posix())).get("stages")
        return {name: lock for name, lock in found.items() if readable(lock)} if isinstance(found, Mapping) else {}

    def locked(self, stage: str) -> pipeline.Lock | None:
        return self.lock.get(stage)

    def settings(self) -> Mapping[str, Any] | None:
        content = self.archived(paths.PARAMS.as_posix())
        return None if content is None else mapping(content)

    def order(self) -> list[str]:
        return list(self.lock)

    @cache  # noqa: B019
    def maker(self, path: str, md5: str) -> StageRun | None:
        """Return the run whose inputs are those in the lock, else the newest that wrote these bytes."""
        found = [stage_run(run) for run in runs.finished_runs(f"dvc.out.{path}", md5)]
        meant = [run for run in found if pipeline.stage_key(self.lock.get(run.name, {})) == run.key]
        return next(iter([*meant, *found]), None)

    @cache  # noqa: B019
    def stored(self, path: str, md5: str) -> Finding:
        """Check that DVC holds a file, or a folder with every file in it."""
        if not md5.endswith(".dir"):
            return self.stored_file(path, md5)
        folder = self.objects.read(md5)
        if folder is None:
            return self.stored_file(path, md5)
        place, listing = folder
        if (found := files.md5_of(listing)) != md5.removesuffix(".dir"):
            return other_bytes(f"the list of {path}", place, found, md5)
        listed = [self.stored_file(f"{path}/{entry['relpath']}", entry["md5"]) for entry in json.loads(listing)]
        bad = [finding for finding in listed if finding.verdict != "ok"]
        return (
            bad[0] if bad else Finding(verdict="ok", subject=path, detail=f"md5 {md5}, {len(listed)} files, in {place}")
        )

    def stored_file(self, path: str, md5: str) -> Finding:
        held = self.objects.read(md5)
        if held is None:
            return Finding(verdict="gap", subject=path, detail=f"md5 {md5} is not in {self.objects.places()}")
        place, content = held
        found = files.md5_of(content)
        if found != md5.removesuffix(".dir"):
            return other_bytes(path, place, found, md5)
        return Finding(verdict="ok", subject=path, detail=f"md5 {md5}, in {place}")

    @cache  # noqa: B019
    def code(self, commit: str, path: str, md5: str) -> Finding:
        content = commits.blob(commit, path)
        if content is None:
            return Finding(verdict="gap", subject=path, detail=f"is not in git at commit {commit}")
        found = files.md5_of(content)
        if found != md5:
            detail = f"has md5 {found} in git at commit {commit}, the stage read {md5}: it was edited and not committed"
            return Finding(verdict="mismatch", subject=path, detail=detail)
        return Finding(verdict="ok", subject=path, detail=f"md5 {md5}, in git at commit {commit[:12]}")

    def data(self, path: str, md5: str) -> tuple[Finding, ...]:
        """Compare the data's md5 with the archived .dvc file and, for the images, with the run's recorded input."""
        place = paths.DATA[Path(path)]
        pointer = mapping(self.archived(place.as_posix()))
        noted = pipeline.hashes(pointer, "outs") if readable(pointer) else {}
        inputs = runs.data_digests(self.tags.get("gate.run", NONE)) if path == paths.RAW.as_posix() else []
        named = compare_hashes(f"the archived {place}", noted.get(Path(path).name, NONE), md5)
        return (named, *(compare_hashes("the data set of the run", one, md5) for one in inputs))

    @cache  # noqa: B019
    def frozen(self) -> Collection[str]:
        try:
            return pipeline.frozen_stages(mapping(self.archived(versions.PIPELINE.as_posix())))
        except UNREADABLE:
            return ()

    def origin(self, stage: str) -> "Records | None":
        """Search the archived dvc.yaml and dvc.lock of each earlier version, the newest first."""
        own = self.lock.get(stage)
        return next((one for one in self.before() if stage not in one.frozen() and one.lock.get(stage) == own), None)

    def before(self) -> "Iterator[Records]":
        """Yield the records of each earlier version, the newest first."""
        for number in sorted(models.version_numbers(self.name), reverse=True):
            if number < self.version:
                yield Records(self.name, number, self.objects)


def compare_hashes(subject: str, found: str, wanted: str, kind: str = "md5") -> Finding:
    if found == wanted:
        return Finding(verdict="ok", subject=subject, detail=f"{kind} {found}")
    return Finding(verdict="mismatch", subject=subject, detail=f"{kind} {found}, recorded {wanted}")


def other_bytes(path: str, place: str, found: str, wanted: str) -> Finding:
    return Finding(
        verdict="mismatch", subject=path, detail=f"{place} holds other bytes: md5 {found} instead of {wanted}"
    )


def mapping(content: bytes | None) -> Mapping[str, Any]:
    """Parse YAML and return its mapping, or an empty one if it is anything else."""
    try:
        value = yaml.safe_load(content or b"")
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, Mapping) else {}


def readable(lock: Any) -> bool:
    """Whether the entry lists hashes in DVC's format."""
    try:
        return isinstance(lock, Mapping) and all(len(pipeline.hashes(lock, part)) >= 0 for part in ("deps", "outs"))
    except UNREADABLE:
        return False


def stage_run(run: runs.Finished) -> StageRun:
    def hashes(prefix: str) -> dict[str, str]:
        return {key.removeprefix(prefix): md5 for key, md5 in run.tags.items() if key.startswith(prefix)}

    return StageRun(
        run=run.run_id,
        name=run.name,
        key=run.tags.get("stage_key", NONE),
        commit=run.tags.get("git.commit", NONE),
        deps=hashes("dvc.dep."),
        outs=hashes("dvc.out."),
    )
