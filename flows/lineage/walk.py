"""Walk from a model back to the images that it was made from, by content hashes alone.

Every stage run in MLflow carries the md5 of what it read (`dvc.dep.<path>`) and wrote (`dvc.out.<path>`). The walk goes
from a file to the run that wrote it, to the files that this run read, and so on. A stage that DVC skipped has no run of
its own and needs none: the earlier run that wrote the same bytes is found in the same way.

A search that was kept (its stage is frozen) belongs to an earlier model version: its inputs are not what the stages
before it write now. From that search on, the earlier version's history continues the model's.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flows.checkout import paths
from flows.checkout.pipeline import Lock, hashes, locked_outputs, stage_key

Verdict = Literal["ok", "mismatch", "gap"]
DATA = tuple(path.as_posix() for path in paths.DATA)
MARKS: Mapping[Verdict, str] = {"ok": "ok", "mismatch": "MISMATCH", "gap": "GAP"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    verdict: Verdict
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{MARKS[self.verdict]} {self.subject}: {self.detail}"


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """A finished stage run, as MLflow records it."""

    run: str
    name: str
    key: str
    commit: str
    deps: Mapping[str, str]
    """Path -> md5 of the files that it read."""
    outs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One node of the tree; a step that occurs again is only named, without its findings."""

    title: str
    run: str | None = None
    findings: tuple[Finding, ...] = ()
    sources: tuple["Step", ...] = ()
    repeated: bool = False

    def all_findings(self) -> Iterator[Finding]:
        yield from self.findings
        for source in self.sources:
            yield from source.all_findings()

    def sound(self) -> bool:
        """Whether all of the step's own checks are ok."""
        return all(finding.verdict == "ok" for finding in self.findings)

    def whole(self) -> bool:
        return all(finding.verdict == "ok" for finding in self.all_findings())


class Evidence(Protocol):
    """The records that a walk reads, of one model version."""

    def maker(self, path: str, md5: str) -> StageRun | None:
        """Return the finished run that wrote the file, or None."""

    def locked(self, stage: str) -> Lock | None:
        """Return the stage's entry in the archived dvc.lock, or None."""

    def settings(self) -> Mapping[str, Any] | None:
        """Return the archived params.yaml, or None."""

    def order(self) -> list[str]:
        """Return the stages in the order in which they ran, as far as it is known."""

    def stored(self, path: str, md5: str) -> Finding:
        """Check that DVC's cache or remote holds the bytes."""

    def code(self, commit: str, path: str, md5: str) -> Finding:
        """Check that git holds the bytes."""

    def data(self, path: str, md5: str) -> tuple[Finding, ...]:
        """Check the other records of this version of the data (`paths.DATA`)."""

    def frozen(self) -> Collection[str]:
        """Return the stages that are frozen in the archived dvc.yaml."""

    def origin(self, stage: str) -> "Evidence | None":
        """Return the records of the newest earlier version that ran the frozen stage with the same dvc.lock entry."""

    @property
    def version(self) -> int: ...

    @property
    def title(self) -> str:
        """The model's name and version, in words."""

    def kept(self) -> tuple[Finding, ...]:
        """Check what is kept of the version as a whole."""


def trace(path: str, md5: str, evidence: Evidence) -> Iterator[Step]:
    """Yield the file's whole history, then its continuation in earlier versions, the latest first.

    Each earlier version is walked once, after all paths that lead to it are known.
    """
    walk = Walk(evidence)
    yield walk.step(path, md5)
    open_ends = walk.ends
    while open_ends:
        latest = max(open_ends, key=lambda one: one.evidence.version).evidence
        walk = Walk(latest)
        ends = [one for one in open_ends if one.evidence.version == latest.version]
        yield Step(
            title=f"{latest.title}, whose searches were kept",
            findings=latest.kept(),
            sources=tuple(walk.step(one.path, one.md5) for one in ends),
        )
        open_ends = [one for one in open_ends if one.evidence.version != latest.version] + walk.ends


@dataclass(frozen=True, kw_only=True)
class End:
    """A file that a later version took over from an earlier one, in whose history the walk continues."""

    path: str
    md5: str
    evidence: Evidence
    """The records of the version whose search wrote the file."""


@dataclass(frozen=True)
class Walk:
    """A walk through one version that visits every run once, and collects the ends where earlier versions continue."""

    evidence: Evidence
    seen: set[str] = field(default_factory=set)
    ends: list[End] = field(default_factory=list)

    def step(self, path: str, md5: str) -> Step:
        """Return the run that wrote the file, with everything before it."""
        run = self.evidence.maker(path, md5)
        if run is None:
            missing = Finding(verdict="gap", subject=path, detail=f"no finished run in MLflow wrote it with md5 {md5}")
            return Step(title=path, findings=(missing, self.evidence.stored(path, md5)))
        if run.run in self.seen:
            return Step(title=run.name, run=run.run, repeated=True)
        self.seen.add(run.run)
        if run.name in self.evidence.frozen() and (kept := self.kept(run.name, path, md5)):
            return kept
        findings = (
            *check_lock(run, self.evidence.locked(run.name), self.evidence.settings()),
            *(self.evidence.stored(out, out_md5) for out, out_md5 in sorted(run.outs.items())),
            *(self.evidence.code(run.commit, dep, m) for dep, m in sorted(run.deps.items()) if is_code(dep)),
        )
        return Step(title=run.name, run=run.run, findings=findings, sources=tuple(self.sources(run)))

    def kept(self, stage: str, path: str, md5: str) -> Step | None:
        """Return the step of a frozen stage whose results come from an earlier version, which is walked later.

        Returns None if the results are this version's own.
        """
        stored, origin = self.evidence.stored(path, md5), self.evidence.origin(stage)
        if origin is not None:
            self.ends.append(End(path=path, md5=md5, evidence=origin))
            found = Finding(verdict="ok", subject=f"{stage} in dvc.lock", detail=f"is that of {origin.title}")
            return Step(title=f"{stage}, {path} of {origin.title}", findings=(found, stored))
        if not self.outdated(stage):
            return None
        detail = "the stage was frozen on other inputs, and no earlier version that is left ran it"
        return Step(
            title=stage, findings=(Finding(verdict="gap", subject=f"{stage} in dvc.lock", detail=detail), stored)
        )

    def outdated(self, stage: str) -> bool:
        """Whether the stages before it have written other outputs since it ran."""
        locks = {name: self.evidence.locked(name) or {} for name in self.evidence.order()}
        now = locked_outputs(locks)
        return any(now.get(path, md5) != md5 for path, md5 in hashes(locks.get(stage, {}), "deps").items())

    def sources(self, run: StageRun) -> Iterator[Step]:
        """Yield a step for every run whose outputs were read, the latest first, then one for each data version."""
        makers: dict[str, tuple[str, str, str]] = {}  # run -> its name, and a file of it that was read
        for path, md5 in run.deps.items():
            if not is_code(path) and path not in DATA:
                maker = self.evidence.maker(path, md5)
                makers.setdefault(maker.run if maker else path, (maker.name if maker else path, path, md5))
        order = {name: place for place, name in enumerate(self.evidence.order())}
        for _, path, md5 in sorted(makers.values(), key=lambda one: -order.get(one[0], -1)):
            yield self.step(path, md5)
        for path in DATA:
            if (digest := run.deps.get(path)) is not None:
                findings = (self.evidence.stored(path, digest), *self.evidence.data(path, digest))
                yield Step(title=f"{path} {digest}", findings=findings)


def is_code(path: str) -> bool:
    """Whether a file is stored in git: code, and the former start files of searches. All else is stored in DVC."""
    return path.endswith((".py", "_start.json"))


def check_lock(run: StageRun, lock: Lock | None, settings: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Check that the archived dvc.lock and params.yaml agree with the stage's run."""
    subject = f"{run.name} in dvc.lock"
    if lock is None:
        yield Finding(verdict="gap", subject=subject, detail="the archived file does not have the stage")
        return
    for part, own in (("deps", run.deps), ("outs", run.outs)):
        locked = hashes(lock, part)
        for path in sorted(locked.keys() | own.keys()):
            if locked.get(path) != own.get(path):
                detail = (
                    f"{path} has md5 {locked.get(path, 'none')}, the run {run.run} recorded {own.get(path, 'none')}"
                )
                yield Finding(verdict="mismatch", subject=subject, detail=detail)
    same = stage_key(lock) == run.key
    detail = "command, dependencies and parameters are the run's" if same else f"not what run {run.run} was given"
    yield Finding(verdict="ok" if same else "mismatch", subject=subject, detail=detail)
    if settings is not None:
        yield from check_settings(run.name, lock, settings)


def check_settings(stage: str, lock: Lock, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that the parameters in the lock have the values in the archived params.yaml."""
    locked = lock.get("params", {}).get(paths.PARAMS.as_posix(), {})
    off = [key for key, value in locked.items() if value_at(settings, key) != value]
    for key in off:
        detail = f"{key} is {value_at(settings, key)}, dvc.lock says {locked[key]}"
        yield Finding(verdict="mismatch", subject=f"{stage} in params.yaml", detail=detail)
    if not off:
        yield Finding(
            verdict="ok", subject=f"{stage} in params.yaml", detail=f"{len(locked)} parameters as in dvc.lock"
        )


def value_at(settings: Mapping[str, Any], key: str) -> Any:
    """Return the value at a key such as `loss.knots` in nested settings, or None if it is missing."""
    value: Any = settings
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
