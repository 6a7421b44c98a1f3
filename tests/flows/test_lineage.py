"""The walk goes from version to version along the starts of searches: each once, the latest first, however many."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flows import paths
from flows.lineage import ANEW, Finding, StageRun, Step, to_html, to_text, trace
from flows.versions import Lock, stage_key

MODEL = paths.MODEL.as_posix()
SEARCHES = ("architecture", "loss")


def ok(subject: str) -> Finding:
    return Finding(verdict="ok", subject=subject, said="ok")


@dataclass
class Past:
    """A line whose `train` reads what two searches found, and each search where it started."""

    version: int
    starts: Mapping[str, int]
    """Search -> the version that it started from; those that are not there started anew."""
    others: "list[Past]" = field(repr=False)

    @property
    def title(self) -> str:
        return f"version {self.version}"

    def runs(self) -> dict[str, StageRun]:
        found = {}
        for word in SEARCHES:
            start = f"end of {word} {self.starts[word]}" if word in self.starts else ANEW
            deps = {paths.STARTS[word].as_posix(): start, paths.RAW.as_posix(): f"images {self.version}"}
            outs = {
                paths.ENDS[word].as_posix(): f"end of {word} {self.version}",
                f"{word}.json": f"{word} {self.version}",
            }
            found[word] = run_of(f"{word} {self.version}", word, deps, outs)
        deps = {f"{word}.json": f"{word} {self.version}" for word in SEARCHES}
        found["train"] = run_of(f"train {self.version}", "train", deps, {MODEL: f"model {self.version}"})
        return found

    def maker(self, path: str, md5: str) -> StageRun | None:
        return next((run for run in self.runs().values() if run.outs.get(path) == md5), None)

    def locked(self, stage: str) -> Lock | None:
        run = self.runs()[stage]
        listed = {part: [{"path": p, "md5": m} for p, m in getattr(run, part).items()] for part in ("deps", "outs")}
        return {"cmd": stage, **listed}

    def settings(self) -> Mapping[str, Any] | None:
        return None

    def order(self) -> list[str]:
        return [*SEARCHES, "train"]

    def stored(self, path: str, md5: str) -> Finding:
        return ok(path)

    def code(self, commit: str, path: str, md5: str) -> Finding:
        return ok(path)

    def data(self, md5: str) -> tuple[Finding, ...]:
        return ()

    def start(self, path: str, md5: str) -> Finding:
        return ok(path)

    def kept(self) -> tuple[Finding, ...]:
        return (ok("params.yaml"),)

    def earlier(self, path: str, md5: str) -> "Past | None":
        before = [one for one in self.others if one.version < self.version and one.maker(path, md5)]
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
    assert [source.title for source in own.sources] == ["loss", "architecture"]
    assert own.whole()


def test_every_version_that_a_search_started_from_is_walked_once_the_latest_first() -> None:
    last = line({}, {"loss": 1}, {"loss": 2, "architecture": 1})[-1]
    own, *earlier = traced(last)
    assert [step.title for step in earlier] == [f"version {n}, from which searches started" for n in (2, 1)]
    assert [[source.title for source in step.sources] for step in earlier] == [["loss"], ["architecture", "loss"]]
    images = [source.title for step in earlier for search in step.sources for source in search.sources]
    assert (
        images
        == ["data/raw images 2", "warm_start/loss_start.json, results/loss/warm_start.json of version 1"]
        + ["data/raw images 1"] * 2
    )
    assert all(step.whole() for step in (own, *earlier))


def test_a_start_that_no_earlier_version_left_is_a_gap() -> None:
    last = line({}, {"loss": 1})[-1]
    last.others.pop(0)
    (own,) = traced(last)
    bad = [finding for finding in own.all_findings() if finding.verdict != "ok"]
    assert [(finding.verdict, finding.subject) for finding in bad] == [("gap", "warm_start/loss_start.json")]


def test_a_year_of_nights_is_no_deeper_than_one() -> None:
    last = line({}, *({"loss": number} for number in range(1, 365)))[-1]
    root = Step(title="the model", sources=tuple(traced(last)))
    assert len(root.sources) == 365
    assert root.whole()
    assert sum(1 for _ in to_text(root)) > 3 * 365
    assert "version 1, from" in to_html(root)
