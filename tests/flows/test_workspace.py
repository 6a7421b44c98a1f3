"""A deployment works at a commit, with the checkout's bytes and without its edits, and keeps what it promoted."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prefect.client.schemas.objects import StateType

from components.settings.params import Params
from components.settings.publish import Publish
from components.settings.retrain import Retrain
from flows import deploy
from flows.checkout import commits, files, paths, versions
from flows.checkout.roster import SEARCHES
from flows.checkout.settings import load_params
from flows.schedule import workspace
from flows.schedule.workspace import Served
from flows.tracking import connection, models
from tests.clones import ROOT

PIPELINE = {
    name: {"cmd": f"cat word > {name}.txt && echo {name} >> ../ran", "deps": ["word"], "outs": [f"{name}.txt"]}
    for name in SEARCHES
}
"""Each tells the folder above when it runs."""


def git(folder: Path, *arguments: str) -> str:
    return commits.require_git(folder, *arguments)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a pipeline of the three searches."""
    folder = tmp_path / "line"
    (folder / ".dvc").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}))
    settings = (ROOT / "tests" / "tiny.yaml").read_text().replace("source: digits", "source: folder, path: images")
    (folder / "params.yaml").write_text(settings)
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (folder / ".gitignore").write_text("/images\n/word\n*.txt\n/.dvc/config.local\n/.dvc/tmp\n/.dvc/cache\n")
    (folder / "images").mkdir()
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, *workspace.IDENTITY, "commit", "--quiet", "-m", "the line")
    return folder


def test_a_persons_edits_stay_with_them_and_the_data_are_found(checkout: Path) -> None:
    place = workspace.default_place(checkout)
    committed = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(committed.replace("seed: 1", "seed: 7"))
    for _ in range(2):
        commit = workspace.prepare(checkout, place, "HEAD")
        assert (place / "params.yaml").read_text() == committed
        assert git(place, "rev-parse", "HEAD") == commit
        (place / "dvc.lock").write_text("left by a run that was killed")
        (place / "dvc.yaml").write_text("left by a run that froze its searches")
    assert (place / "images").resolve() == (checkout / "images").resolve()
    assert "seed: 7" in (checkout / "params.yaml").read_text()
    assert str(checkout / ".dvc" / "cache") in (place / ".dvc" / "config.local").read_text()


def test_what_a_person_edited_in_the_workspace_is_not_checked_out_anew(checkout: Path) -> None:
    place = workspace.default_place(checkout)
    workspace.prepare(checkout, place, "HEAD")
    (place / "params.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"params\.yaml was edited in .*line\.retrain, .* commit it, or undo it with"):
        workspace.prepare(checkout, place, "HEAD")
    assert (place / "params.yaml").read_text() == "mine"
    git(place, "checkout", "--quiet", "params.yaml")
    (checkout / "notes.md").write_text("theirs")
    git(checkout, "add", "notes.md")
    git(checkout, *workspace.IDENTITY, "commit", "--quiet", "-m", "notes")
    (place / "notes.md").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.md was edited in"):
        workspace.prepare(checkout, place, "HEAD")
    assert (place / "notes.md").read_text() == "mine"


def test_a_file_that_was_ignored_and_is_tracked_now_is_not_checked_out_over(checkout: Path) -> None:
    place = workspace.default_place(checkout)
    workspace.prepare(checkout, place, "HEAD")
    (place / "notes.txt").write_text("mine")
    (checkout / "notes.txt").write_text("theirs")
    git(checkout, "add", "--force", "notes.txt")
    git(checkout, *workspace.IDENTITY, "commit", "--quiet", "-m", "notes")
    with pytest.raises(ValueError, match=r"notes\.txt was edited in"):
        workspace.prepare(checkout, place, "HEAD")
    assert (place / "notes.txt").read_text() == "mine"


def test_a_link_to_a_source_that_is_away_is_renewed_and_none_is_made_outside(checkout: Path, tmp_path: Path) -> None:
    place = workspace.default_place(checkout)
    workspace.prepare(checkout, place, "HEAD")
    (checkout / "images").rename(checkout / "away")
    workspace.prepare(checkout, place, "HEAD")
    (checkout / "away").rename(checkout / "images")
    workspace.prepare(checkout, place, "HEAD")
    assert (place / "images").resolve() == checkout / "images"
    settings = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(settings.replace("path: images", "path: ../pictures"))
    git(checkout, *workspace.IDENTITY, "commit", "--quiet", "--all", "-m", "elsewhere")
    with pytest.raises(ValueError, match=r"data\.path is '\.\./pictures', .*give the absolute path"):
        workspace.prepare(checkout, tmp_path / "deep" / "place", "HEAD")
    assert not (tmp_path / "deep" / "pictures").exists()


def test_another_repository_is_no_place_for_deployments(checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    (other / "params.yaml").write_text("mine")
    with pytest.raises(ValueError, match="is a git repository of its own"):
        workspace.prepare(checkout, other, "HEAD")
    assert (other / "params.yaml").read_text() == "mine"


def test_a_new_workspace_goes_on_from_the_splits_of_the_last_promoted_run(checkout: Path) -> None:
    place, params = workspace.default_place(checkout), load_params(checkout / "params.yaml")
    workspace.prepare(checkout, place, "HEAD")
    for name in ("dvc.lock", "data/split.csv.dvc"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("stages: {}\n")
    workspace.record(place, params.publish.model, "1")
    git(checkout, "worktree", "remove", "--force", str(place))
    workspace.prepare(checkout, place, "HEAD")
    assert not (place / "data" / "split.csv.dvc").exists()
    workspace.begin_from_last(place, params, None)
    assert (place / "data" / "split.csv.dvc").read_text() == "stages: {}\n"


def test_a_deployment_reaches_what_dvc_reaches_in_the_checkout(checkout: Path, tmp_path: Path) -> None:
    own = checkout / ".dvc" / "config.local"
    run(checkout, "cache", "dir", "--local", "../bytes")
    run(checkout, "config", "--local", "cache.type", "copy")
    run(checkout, "remote", "add", "--default", "storage", "../storage")
    run(checkout, "remote", "add", "--local", "far", "ssh://host/line")
    run(checkout, "remote", "modify", "--local", "far", "password", "secret")
    own.chmod(0o600)
    place = tmp_path / "deep" / "place"
    workspace.prepare(checkout, place, "HEAD")
    with versions.open_repo(place) as repo:
        remotes, cache = repo.config["remote"], repo.config["cache"]
    assert remotes["storage"]["url"] == str(tmp_path / "storage")
    assert (remotes["far"]["password"], cache["type"]) == ("secret", ["copy"])
    assert versions.cache_of(place) == tmp_path / "bytes"
    assert (place / ".dvc" / "config.local").stat().st_mode & 0o777 == 0o600


def test_what_was_computed_once_is_not_computed_again_in_the_workspace_night_after_night(checkout: Path) -> None:
    """Though the checkout has committed the dvc.lock of other data, to which each night begins anew."""
    place, ran = workspace.default_place(checkout), checkout.parent / "ran"

    def computed(folder: Path, word: str) -> list[str]:
        ran.write_text("")
        (folder / "word").write_text(word)
        run(folder, "repro", "--quiet")
        assert {(folder / f"{name}.txt").read_text() for name in SEARCHES} == {word}
        return sorted(ran.read_text().split())

    everything = sorted(SEARCHES)
    assert computed(checkout, "by hand") == everything
    git(checkout, "add", "dvc.lock")
    git(checkout, *workspace.IDENTITY, "commit", "--quiet", "-m", "ran")
    for word, expected in (("by hand", []), ("new data", everything), ("new data", []), ("by hand", [])):
        workspace.prepare(checkout, place, "HEAD")
        assert computed(place, word) == expected


def test_a_persons_hooks_and_signatures_are_not_those_of_a_deployment(checkout: Path) -> None:
    hook = checkout / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    for setting in ("commit.gpgSign", "tag.gpgSign"):
        git(checkout, "config", setting, "true")
    git(checkout, "config", "gpg.program", "/bin/false")
    place = workspace.default_place(checkout)
    workspace.prepare(checkout, place, "HEAD")
    (place / "dvc.lock").write_text(lock_of(b"model"))
    assert workspace.record(place, "line", "1") == "retrain/line/1"


def lock_of(model: bytes) -> str:
    """A dvc.lock whose `train` wrote these bytes."""
    out = {"path": paths.MODEL.as_posix(), "md5": files.md5_of(model)}
    return yaml.safe_dump({"schema": "2.0", "stages": {"train@searched": {"cmd": "x", "outs": [out]}}})


def promoted(place: Path, model: str, number: str, content: bytes) -> Served:
    """A version that a deployment made in the place."""
    (place / "dvc.lock").write_text(lock_of(content))
    workspace.record(place, model, number)
    return Served(number=number, md5=files.md5_of(content))


def test_what_was_promoted_is_committed_under_a_tag_and_no_branch_moves(checkout: Path) -> None:
    place = workspace.default_place(checkout)
    before = workspace.prepare(checkout, place, "HEAD")
    (place / "dvc.lock").write_text(lock_of(b"model"))
    tag = workspace.record(place, "tiny digits", "3")
    assert tag == "retrain/tiny-digits/3"
    assert git(checkout, "show", f"{tag}:dvc.lock") + "\n" == lock_of(b"model")
    assert git(checkout, "rev-parse", f"{tag}^") == before
    assert git(checkout, "rev-parse", "HEAD") == before
    kept = git(checkout, "rev-parse", tag)
    assert workspace.record(place, "tiny digits", "3") == tag
    assert git(checkout, "rev-parse", tag) == kept


def test_the_tag_of_another_registrys_version_is_refused_at_both_ends_of_a_retrain(checkout: Path) -> None:
    place = workspace.default_place(checkout)
    workspace.prepare(checkout, place, "HEAD")
    params = replace(load_params(place / "params.yaml"), retrain=Retrain(search="reuse"))
    promoted(place, params.publish.model, "1", b"of a registry that is gone")
    said = f"the tag retrain/{params.publish.model}/1 is of another model than version 1 .*; rename it, or delete it"
    with pytest.raises(ValueError, match=said):
        promoted(place, params.publish.model, "1", b"model")
    with pytest.raises(ValueError, match=said):
        workspace.begin_from_last(place, params, Served(number="1", md5=files.md5_of(b"model")))


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], Served]:
    """An empty registry: gives what makes a file the model's next version and puts it into service."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = connection.connect()

    def register(model: str, content: bytes) -> Served:
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model)
        md5 = files.md5_of(content)
        number = str(client.create_model_version(model, "nowhere", tags={"md5": md5}).version)
        models.move_alias(model, "champion", number)
        return Served(number=number, md5=md5)

    return register


def test_a_version_whose_retrain_was_killed_before_it_was_tagged_is_tagged_by_the_next(
    checkout: Path, registered: Callable[[str, bytes], Served]
) -> None:
    place = workspace.default_place(checkout)
    workspace.prepare(checkout, place, "HEAD")
    (place / paths.MODEL).parent.mkdir(parents=True)
    (place / paths.MODEL).write_bytes(b"model")
    (place / "dvc.lock").write_text(lock_of(b"model"))
    champion = registered("line", b"model")
    for _ in range(2):
        state = deploy.record_champion(place, "line", champion, "on schedule")
        assert state.message == "the champion stays version 1, tagged retrain/line/1 (because: on schedule)"
    assert git(checkout, "show", "retrain/line/1:dvc.lock") + "\n" == lock_of(b"model")
    assert models.version_tags("line", "1")["git.tag"] == "retrain/line/1"
    registered("line", b"put into service by hand")
    state = deploy.record_champion(place, "line", champion, "on schedule")
    assert state.message == "another version was put into service meanwhile (because: on schedule)"
    assert git(checkout, "tag", "--list") == "retrain/line/1"


def searched(place: Path, params: Params, number: str, word: str) -> Served:
    """A version whose searches found the word, and whose model is made of it."""
    (place / "word").write_text(word)
    run(place, "repro", "--quiet")
    lock = yaml.safe_load((place / "dvc.lock").read_text())
    lock["stages"] |= yaml.safe_load(lock_of(word.encode()))["stages"]
    (place / "dvc.lock").write_text(yaml.safe_dump(lock))
    workspace.record(place, params.publish.model, number)
    return Served(number=number, md5=files.md5_of(word.encode()))


def test_reuse_takes_the_searches_of_the_version_in_service_from_the_shared_cache_and_freezes_them(
    checkout: Path,
) -> None:
    """Though the checkout has committed the dvc.lock of an older one, and the last tag is another model's."""
    place = workspace.default_place(checkout)
    workspace.prepare(checkout, place, "HEAD")
    params = replace(load_params(place / "params.yaml"), retrain=Retrain(search="reuse"))
    old, served = searched(place, params, "1", "old"), searched(place, params, "2", "served")
    searched(place, replace(params, publish=Publish(model="another")), "1", "another")
    (checkout / "dvc.lock").write_text(git(place, "show", f"retrain/{params.publish.model}/1:dvc.lock") + "\n")
    git(checkout, "add", "dvc.lock")
    git(checkout, *workspace.IDENTITY, "commit", "--quiet", "-m", "version 1")
    for version, word in ((served, "served"), (old, "old")):
        workspace.prepare(checkout, place, "HEAD")
        (place / "loss.txt").unlink()
        (place / "loss.txt").write_text("left by a run that was killed")
        workspace.begin_from_last(place, params, version)
        assert (place / "loss.txt").read_text() == word
        stages = yaml.safe_load((place / "dvc.yaml").read_text())["stages"]
        assert all(stages[name]["frozen"] for name in SEARCHES)
    workspace.prepare(checkout, place, "HEAD")
    workspace.begin_from_last(place, replace(params, retrain=Retrain(search="fresh")), served)
    assert not any("frozen" in stage for stage in yaml.safe_load((place / "dvc.yaml").read_text())["stages"].values())
    assert (place / "dvc.lock").read_bytes() == (checkout / "dvc.lock").read_bytes()


def test_where_no_dvc_lock_is_committed_the_models_last_one_saves_what_it_knows(checkout: Path) -> None:
    place = workspace.default_place(checkout)
    workspace.prepare(checkout, place, "HEAD")
    params = load_params(place / "params.yaml")
    promoted(place, "another", "7", b"another")
    workspace.prepare(checkout, place, "HEAD")
    workspace.begin_from_last(place, params, None)
    assert not (place / "dvc.lock").exists()
    promoted(place, params.publish.model, "1", b"model")
    workspace.prepare(checkout, place, "HEAD")
    workspace.begin_from_last(place, params, None)
    assert (place / "dvc.lock").read_text() == lock_of(b"model")


def run(folder: Path, *arguments: str) -> None:
    subprocess.run(versions.dvc(*arguments), cwd=folder, env=versions.stage_environment(), check=True)


def test_reuse_without_a_version_that_a_deployment_made_is_refused(checkout: Path) -> None:
    place = workspace.default_place(checkout)
    workspace.prepare(checkout, place, "HEAD")
    (place / "dvc.lock").write_text(lock_of(b"by hand"))
    params = replace(load_params(place / "params.yaml"), retrain=Retrain(search="reuse"))
    for served in (None, Served(number="1", md5=files.md5_of(b"by hand"))):
        with pytest.raises(ValueError, match="no version in service was made by a deployment; retrain once with fresh"):
            workspace.begin_from_last(place, params, served)


def test_a_second_deployment_or_an_unknown_revision_ends_failed_with_a_sentence(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    with workspace.workspace_lock(workspace.default_place(checkout)):
        busy = deploy.attempt("HEAD", None, poll=False)
    unknown = deploy.attempt("no-such-branch", None, poll=False)
    assert [state.type for state in (busy, unknown)] == [StateType.FAILED] * 2
    assert busy.message == "another retrain is running in line.retrain; this one is left out"
    assert "no-such-branch" in str(unknown.message)
    assert "ASSEMBLY_LINE_FLOW" not in os.environ


def test_prefect_yaml_names_flows_that_exist_with_their_parameters_and_lets_one_run_at_a_time() -> None:
    for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        file, _, name = deployment["entrypoint"].partition(":")
        assert (ROOT / file).exists()
        assert set(deployment["parameters"]) <= set(getattr(deploy, name).parameters.properties)
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
        assert deployment["schedules"]
