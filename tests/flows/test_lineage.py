"""The walk goes from a version to the one whose searches it kept."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.checkout import paths
from flows.checkout.pipeline import Lock, stage_key
from flows.lineage.tree import to_text
from flows.lineage.walk import Finding, StageRun, Step, trace
from flows.report.page import lineage_page

MODEL = paths.MODEL.as_posix()
SEARCHES = ("architecture", "loss")
PREPARED = "data/prepared/train"


def ok(subject: str) -> Finding:
    return Finding(verdict="ok", subject=subject, detail="ok")


@dataclass
class Past:
    """A line whose `train` reads what two searches found."""

    version: int
    others: "list[Past]" = field(repr=False)
    keeps: "Past | None" = None
    """The version whose searches this one took as they were, frozen."""

    @property
    def title(self) -> str:
        return f"version {self.version}"

    def runs(self) -> dict[str, StageRun]:
        raw, prepared = {paths.RAW.as_posix(): f"images {self.version}"}, {PREPARED: f"prepared {self.version}"}
        found = {"prepare": run_of(f"prepare {self.version}", "prepare", raw, prepared)}
        for word in SEARCHES:
            if self.keeps is not None:
                found[word] = self.keeps.runs()[word]
                continue
            outs = {f"{word}.json": f"{word} {self.version}"}
            found[word] = run_of(f"{word} {self.version}", word, prepared, outs)
        deps = {f"{word}.json": found[word].outs[f"{word}.json"] for word in SEARCHES} | prepared
        found["train"] = run_of(f"train {self.version}", "train", deps, {MODEL: f"model {self.version}"})
        return found

    def maker(self, path: str, md5: str) -> StageRun | None:
        every = (run for past in (self, *self.others) for run in past.runs().values())
        return next((run for run in every if run.outs.get(path) == md5), None)

    def locked(self, stage: str) -> Lock | None:
        run = self.runs()[stage]
        listed = {part: [{"path": p, "md5": m} for p, m in getattr(run, part).items()] for part in ("deps", "outs")}
        return {"cmd": stage, **listed}

    def settings(self) -> Mapping[str, Any] | None:
        return None

    def order(self) -> list[str]:
        return ["prepare", *SEARCHES, "train"]

    def stored(self, path: str, md5: str) -> Finding:
        return ok(path)

    def code(self, commit: str, path: str, md5: str) -> Finding:
        return ok(path)

    def data(self, path: str, md5: str) -> tuple[Finding, ...]:
        same = md5 == f"images {self.version}"
        return (Finding(verdict="ok" if same else "mismatch", subject="data/raw.dvc", detail=md5),)

    def kept(self) -> tuple[Finding, ...]:
        return (ok("params.yaml"),)

    def frozen(self) -> Collection[str]:
        return SEARCHES if self.keeps else ()

    def origin(self, stage: str) -> "Past | None":
        return self.newest_before(lambda one: not one.keeps and one.locked(stage) == self.locked(stage))

    def newest_before(self, is_it: "Callable[[Past], bool]") -> "Past | None":
        before = [one for one in self.others if one.version < self.version and is_it(one)]
        return max(before, key=lambda one: one.version, default=None)


def run_of(run: str, name: str, deps: Mapping[str, str], outs: Mapping[str, str]) -> StageRun:
    key = stage_key({"cmd": name, "deps": [{"path": path, "md5": md5} for path, md5 in deps.items()]})
    return StageRun(run=run, name=name, key=key, commit="c", deps=deps, outs=outs)


def line(count: int) -> list[Past]:
    versions: list[Past] = []
    for number in range(1, count + 1):
        versions.append(Past(number, versions))
    return versions


def traced(past: Past) -> list[Step]:
    return list(trace(MODEL, f"model {past.version}", past))


def test_a_version_of_its_own_searches_has_none_before_it() -> None:
    (own,) = traced(line(2)[1])
    assert [source.title for source in own.sources] == ["loss", "architecture", "prepare"]
    assert own.whole()


def keeping(past: Past) -> Past:
    """The version after the last, of other images, with the searches of `past`."""
    last = Past(len(past.others) + 1, past.others, keeps=past)
    past.others.append(last)
    return last


def test_searches_that_were_kept_are_walked_in_the_version_that_ran_them() -> None:
    first, second = line(2)
    last = keeping(keeping(second))
    own, *earlier = traced(last)
    assert [source.title for source in own.sources] == [
        "loss, loss.json of version 2",
        "architecture, architecture.json of version 2",
        "prepare",
    ]
    assert [step.title for step in earlier] == ["version 2, whose searches were kept"]
    assert [finding for step in (own, *earlier) for finding in step.all_findings() if finding.verdict != "ok"] == []
    root = Step(title="the model", sources=(own, *earlier))
    text = "\n".join(to_text(root))
    assert "version 2, whose" in lineage_page(root)
    assert [text.count(f"data/raw images {number}:") for number in (1, 2, 3, 4)] == [0, 1, 0, 1]
    assert first.frozen() == ()


def test_kept_searches_that_no_earlier_version_ran_are_gaps_unless_nothing_before_them_changed() -> None:
    (first,) = line(1)
    last = keeping(first)
    last.others.remove(first)
    (own,) = traced(last)
    bad = [finding for finding in own.all_findings() if finding.verdict != "ok"]
    assert [(finding.verdict, finding.subject) for finding in bad] == [
        ("gap", "loss in dvc.lock"),
        ("gap", "architecture in dvc.lock"),
    ]
    (alone,) = line(1)
    (own,) = traced(Past(1, [], keeps=alone))
    assert own.whole()
    assert [source.title for source in own.sources] == ["loss", "architecture", "prepare"]
