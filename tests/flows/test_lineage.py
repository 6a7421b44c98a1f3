"""The walk goes from version to version along the starts of searches: each once, the latest first, however many."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.checkout import paths
from flows.checkout.pipeline import Lock, stage_key
from flows.lineage.tree import to_html, to_text
from flows.lineage.walk import ANEW, Finding, StageRun, Step, trace

MODEL = paths.MODEL.as_posix()
SEARCHES = ("architecture", "loss")
PREPARED = "data/prepared/train"


def ok(subject: str) -> Finding:
    return Finding(verdict="ok", subject=subject, said="ok")


@dataclass
class Past:
    """A line whose `train` reads what two searches found, and each search where it started."""

    version: int
    starts: Mapping[str, int]
    """Search -> the version that it started from; those that are not there started anew."""
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
            start = f"end of {word} {self.starts[word]}" if word in self.starts else ANEW
            deps = {paths.STARTS[word].as_posix(): start} | prepared
            outs = {
                paths.ENDS[word].as_posix(): f"end of {word} {self.version}",
                f"{word}.json": f"{word} {self.version}",
            }
            found[word] = run_of(f"{word} {self.version}", word, deps, outs)
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
        return (Finding(verdict="ok" if same else "mismatch", subject="data/raw.dvc", said=md5),)

    def start(self, path: str, md5: str) -> Finding:
        return ok(path)

    def kept(self) -> tuple[Finding, ...]:
        return (ok("params.yaml"),)

    def earlier(self, path: str, md5: str) -> "Past | None":
        return self.newest_before(lambda one: any(run.outs.get(path) == md5 for run in one.runs().values()))

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


def line(*starts: Mapping[str, int]) -> list[Past]:
    versions: list[Past] = []
    for number, these in enumerate(starts, start=1):
        versions.append(Past(number, these, versions))
    return versions


def traced(past: Past) -> list[Step]:
    return list(trace(MODEL, f"model {past.version}", past))


def test_searches_that_started_anew_have_no_version_before_them() -> None:
    (own,) = traced(line({}, {})[1])
    assert [source.title for source in own.sources] == ["loss", "architecture", "prepare"]
    assert own.whole()


def test_every_version_that_a_search_started_from_is_walked_once_the_latest_first() -> None:
    last = line({}, {"loss": 1}, {"loss": 2, "architecture": 1})[-1]
    own, *earlier = traced(last)
    assert [step.title for step in earlier] == [f"version {n}, from which searches started" for n in (2, 1)]
    assert [[source.title for source in step.sources] for step in earlier] == [["loss"], ["architecture", "loss"]]
    before = [source.title for step in earlier for search in step.sources for source in search.sources]
    start = "warm_start/loss_start.json, results/loss/warm_start.json of version 1"
    assert before == ["prepare", start, "prepare", "prepare"]
    text = "\n".join(to_text(Step(title="the model", sources=(own, *earlier))))
    assert [text.count(f"data/raw images {number}:") for number in (1, 2, 3)] == [1, 1, 1]
    assert all(step.whole() for step in (own, *earlier))


def test_a_start_that_no_earlier_version_left_is_a_gap() -> None:
    last = line({}, {"loss": 1})[-1]
    last.others.pop(0)
    (own,) = traced(last)
    bad = [finding for finding in own.all_findings() if finding.verdict != "ok"]
    assert [(finding.verdict, finding.subject) for finding in bad] == [("gap", "warm_start/loss_start.json")]


def keeping(past: Past) -> Past:
    """The version after the last, of other images, with the searches of `past`."""
    last = Past(len(past.others) + 1, {}, past.others, keeps=past)
    past.others.append(last)
    return last


def test_searches_that_were_kept_are_walked_in_the_version_that_ran_them() -> None:
    first, started = line({}, {"loss": 1})
    last = keeping(keeping(started))
    own, *earlier = traced(last)
    assert [source.title for source in own.sources] == [
        "loss, loss.json of version 2",
        "architecture, architecture.json of version 2",
        "prepare",
    ]
    assert [step.title for step in earlier] == [
        "version 2, whose searches were kept",
        "version 1, from which searches started",
    ]
    assert [finding for step in (own, *earlier) for finding in step.all_findings() if finding.verdict != "ok"] == []
    text = "\n".join(to_text(Step(title="the model", sources=(own, *earlier))))
    assert [text.count(f"data/raw images {number}:") for number in (1, 2, 3, 4)] == [1, 1, 0, 1]
    assert first.frozen() == ()


def test_kept_searches_that_no_earlier_version_ran_are_gaps_unless_nothing_before_them_changed() -> None:
    (first,) = line({})
    last = keeping(first)
    last.others.remove(first)
    (own,) = traced(last)
    bad = [finding for finding in own.all_findings() if finding.verdict != "ok"]
    assert [(finding.verdict, finding.subject) for finding in bad] == [
        ("gap", "loss in dvc.lock"),
        ("gap", "architecture in dvc.lock"),
    ]
    (alone,) = line({})
    (own,) = traced(Past(1, {}, [], keeps=alone))
    assert own.whole()
    assert [source.title for source in own.sources] == ["loss", "architecture", "prepare"]


def test_a_year_of_nights_is_no_deeper_than_one() -> None:
    last = line({}, *({"loss": number} for number in range(1, 365)))[-1]
    root = Step(title="the model", sources=tuple(traced(last)))
    assert len(root.sources) == 365
    assert root.whole()
    assert sum(1 for _ in to_text(root)) > 3 * 365
    assert "version 1, from" in to_html(root)
