"""Where a search starts: where that of an earlier version ended, to the last digit, or anew, and the run says which."""

import csv
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.settings.params import Params
from flows import warm_start
from flows.checkout import commits, files, paths, pipeline, versions
from flows.schedule import workspace
from flows.stages import augmentation, loss
from tests.flows.test_checkpoints import Recorder, begin_with_noise, outputs, start_anew
from tests.shapes import without_checks  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("without_checks")

STAGES = {"augmentation": augmentation.run, "loss": loss.run}
ANOTHER = "another data version"

# --- the stages


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    return begin_with_noise()


def run(params: Params, word: str) -> str:
    """What the stage said of its start."""
    recorder = Recorder()
    STAGES[word](params, recorder, Path("checkpoint") / str(len(list(Path("checkpoint").glob("*")))))
    return recorder.said["warm_start"]


def start_from(word: str) -> None:
    """Where the last run ended."""
    paths.STARTS[word].write_bytes(paths.ENDS[word].read_bytes())


def ended(word: str) -> list[float]:
    theta: list[float] = files.read_json(paths.ENDS[word])["theta"]
    return theta


def with_online(params: Params, word: str, **changes: Any) -> Params:
    section = getattr(params, word)
    return replace(params, **{word: replace(section, online=replace(section.online, **changes))})


@pytest.mark.parametrize("word", STAGES)
def test_a_search_that_never_learns_ends_where_another_ended(params: Params, word: str) -> None:
    assert run(params, word) == "anew"
    before = ended(word)
    assert len(set(before)) > 1
    start_from(word)
    assert run(with_online(params, word, controller="null"), word) == "where that of another version ended"
    assert ended(word) == before
    run(params, word)
    assert ended(word) != before


def test_the_loss_search_tries_samples_around_the_mean_that_another_ended_with(params: Params) -> None:
    run(params, "loss")
    before = ended("loss")
    start_from("loss")
    run(params, "loss")
    with (paths.LOSS / "trunks.csv").open() as file:
        one, other, *_ = csv.DictReader(file)  # an antithetic pair
    middle = [(float(one[f"sample_{k}"]) + float(other[f"sample_{k}"])) / 2 for k in range(len(before))]
    assert middle == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("word", STAGES)
def test_a_bandit_goes_on_with_the_evidence_of_the_search_before(params: Params, word: str) -> None:
    chosen = with_online(params, word, controller="bandit")
    run(chosen, word)
    first = files.read_json(paths.ENDS[word])
    start_from(word)
    run(chosen, word)
    second = files.read_json(paths.ENDS[word])
    assert second["evidence"]["start"] == first["evidence"]["start"] != first["theta"]
    before, after = (np.diag(record["evidence"]["precision"]) for record in (first, second))
    assert (after >= before / 2).all()
    assert after.sum() > before.sum() / 2 > 0


def test_matching_replaces_a_start_whole_at_rate_1_and_says_so_and_keeps_its_share_of_it_below(params: Params) -> None:
    run(params, "augmentation")
    matching = {"controller": "matching", "reward": "alignment", "probe_images": 16, "trunks": 2, "warmup_trunks": 0}
    start = Path("start")
    start.write_bytes(paths.ENDS["augmentation"].read_bytes())
    ends: dict[tuple[float, bool], list[float]] = {}
    for rate in (1.0, 0.5):
        chosen = with_online(params, "augmentation", controller_lr=rate, **matching)
        for warm in (False, True):
            start_anew()
            if warm:
                paths.STARTS["augmentation"].write_bytes(start.read_bytes())
            said = run(chosen, "augmentation")
            ends[rate, warm] = ended("augmentation")
            assert ("which matching with controller_lr 1 replaces by the match" in said) == (warm and rate == 1)
    assert ends[1.0, True] == ends[1.0, False]
    assert ends[0.5, True] != ends[0.5, False]


@pytest.mark.parametrize(
    ("word", "changes", "named"), [("augmentation", {"cutout": False}, "elements"), ("loss", {"knots": 5}, "knots")]
)
def test_where_the_space_has_changed_the_search_starts_anew_and_says_so(
    params: Params, word: str, changes: dict[str, Any], named: str
) -> None:
    run(params, word)
    start_from(word)
    changed = replace(params, **{word: replace(getattr(params, word), **changes)})
    with pytest.warns(UserWarning, match=f"the {word} search starts anew, not where .*: it has other {named}"):
        assert f"it has other {named} than the settings" in run(changed, word)
    begun = outputs(paths.SEARCHES[word])
    start_anew()
    run(changed, word)
    assert outputs(paths.SEARCHES[word]) == begun


@pytest.mark.parametrize("word", STAGES)
@pytest.mark.parametrize("content", ["[]", '{"theta": [0.0]}', "{theta", '{"theta": "x"}'])
def test_what_is_no_record_is_refused_before_anything_is_computed(params: Params, word: str, content: str) -> None:
    paths.STARTS[word].write_text(content)
    with pytest.raises(ValueError, match=rf"warm_start/{word}_start.json is no record of a search; `git checkout"):
        run(params, word)
    assert not paths.ENDS[word].exists()


# --- from a version's commit


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """In a repository whose searches leave a record each, the tag of a version; its own searches started anew."""
    monkeypatch.chdir(tmp_path)
    outs = {word: end.as_posix() for word, end in paths.ENDS.items()}
    stages = {
        word: {"cmd": f"mkdir -p results/{word} && echo '{word}' > {out}", "outs": [out]} for word, out in outs.items()
    }
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    analytics = false\n")
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    paths.RAW.mkdir(parents=True)
    (paths.RAW / "images").write_text("some")
    start_anew()
    Path(".gitignore").write_text("/results\n/data/raw\n/.dvc/tmp\n/.dvc/cache\n")
    here = Path()
    commits.require_git(here, "init", "--quiet")
    versions.add_data(paths.RAW)
    subprocess.run(versions.dvc("repro", "--quiet"), env=versions.stage_environment(), check=True)
    commits.require_git(here, "add", "--all")
    commits.require_git(here, *workspace.IDENTITY, "commit", "--quiet", "-m", "the line")
    return workspace.record(here, "digits", "1")


def starts() -> dict[str, bytes]:
    return {word: file.read_bytes() for word, file in paths.STARTS.items()}


def test_on_other_images_the_searches_start_where_the_versions_ended(version: str) -> None:
    assert warm_start.place(version, ANOTHER) == f"the searches start where those of {version} ended"
    assert starts() == {word: f"{word}\n".encode() for word in paths.STARTS}


def test_on_the_same_images_they_start_where_its_own_started(version: str) -> None:
    for file in paths.STARTS.values():
        file.write_text("left by a run before")
    said = warm_start.place(version, versions.data_digest(paths.RAW_DVC))
    assert said == f"no image is new since {version}; the searches start where its own started"
    assert set(starts().values()) == {warm_start.EMPTY}


def test_the_version_after_keeps_its_start_in_its_commit(version: str) -> None:
    warm_start.place(version, ANOTHER)
    begun = starts()
    after = workspace.record(Path(), "digits", "2")
    start_anew()
    warm_start.place(after, versions.data_digest(paths.RAW_DVC))
    assert starts() == begun


def lost(version: str) -> str:
    """Its bytes of the loss search, from DVC's cache."""
    md5 = pipeline.hashes(pipeline.locked_stage("loss") or {}, "outs")[paths.ENDS["loss"].as_posix()]
    (Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]).unlink()
    return version


def unrecorded(version: str) -> str:
    commits.require_git(Path(), "rm", "--quiet", "--cached", "dvc.lock")
    commits.require_git(Path(), *workspace.IDENTITY, "commit", "--quiet", "-m", "no lock")
    return "HEAD"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lost, "results/loss/warm_start.json of retrain/digits/1 is not in the DVC cache; bring it back with"),
        (unrecorded, "HEAD has no dvc.lock; name a commit in which a version is recorded"),
        (lambda version: "nothing", "nothing has no dvc.lock; name a commit"),
    ],
)
def test_a_version_that_cannot_be_had_is_one_sentence_and_nothing_is_written(
    version: str, damage: Callable[[str], str], says: str
) -> None:
    begun = starts()
    with pytest.raises(commits.VersionsError, match=says):
        warm_start.place(damage(version), ANOTHER)
    assert starts() == begun


def test_a_search_that_left_no_record_starts_anew_and_is_named(version: str) -> None:
    lock = yaml.safe_load(versions.LOCK.read_text())
    del lock["stages"]["loss"]["outs"]
    versions.LOCK.write_text(yaml.safe_dump(lock))
    older = workspace.record(Path(), "digits", "2")
    assert warm_start.place(older, ANOTHER).endswith("ended, but for loss, which left no record there")
    assert starts() == {word: f"{word}\n".encode() for word in paths.STARTS} | {"loss": warm_start.EMPTY}
