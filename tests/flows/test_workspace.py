"""A deployment works at a commit, with the checkout's bytes and without its edits, and keeps what it promoted."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prefect.client.schemas.objects import StateType

from components.params import Retrain
from flows import deploy, versions, workspace
from flows.settings import load_params
from tests.clones import ROOT

PIPELINE = {name: {"cmd": f"echo {name} > {name}.txt", "outs": [f"{name}.txt"]} for name in workspace.REUSED}


def git(folder: Path, *arguments: str) -> str:
    return versions.require_git(folder, *arguments)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a pipeline of the three searches."""
    folder = tmp_path / "line"
    (folder / ".dvc").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}))
    settings = (ROOT / "tests" / "tiny.yaml").read_text().replace("source: digits", "source: folder, path: images")
    (folder / "params.yaml").write_text(settings)
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (folder / ".gitignore").write_text("/images\n*.txt\n/.dvc/config.local\n/.dvc/tmp\n/.dvc/cache\n")
    (folder / "images").mkdir()
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, *workspace.IDENTITY, "commit", "--quiet", "-m", "the line")
    return folder


def test_a_persons_edits_stay_with_them_and_the_data_are_found(checkout: Path) -> None:
    place = workspace.beside(checkout)
    committed = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(committed.replace("seed: 1", "seed: 7"))
    for _ in range(2):
        commit = workspace.prepare(checkout, place, "HEAD")
        assert (place / "params.yaml").read_text() == committed
        assert git(place, "rev-parse", "HEAD") == commit
        (place / "params.yaml").write_text("left by a run that was killed")
    assert (place / "images").resolve() == (checkout / "images").resolve()
    assert "seed: 7" in (checkout / "params.yaml").read_text()
    assert str(checkout / ".dvc" / "cache") in (place / ".dvc" / "config.local").read_text()


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
    with versions.opened(place) as repo:
        remotes, cache = repo.config["remote"], repo.config["cache"]
    assert remotes["storage"]["url"] == str(tmp_path / "storage")
    assert (remotes["far"]["password"], cache["type"]) == ("secret", ["copy"])
    assert versions.cache_of(place) == tmp_path / "bytes"
    assert (place / ".dvc" / "config.local").stat().st_mode & 0o777 == 0o600


def test_what_was_promoted_is_committed_under_a_tag_and_no_branch_moves(checkout: Path) -> None:
    place = workspace.beside(checkout)
    before = workspace.prepare(checkout, place, "HEAD")
    (place / "dvc.lock").write_text("schema: '2.0'\n")
    tag = workspace.record(place, "tiny digits", "3")
    assert tag == "retrain/tiny-digits/3"
    assert git(checkout, "show", f"{tag}:dvc.lock") == "schema: '2.0'"
    assert git(checkout, "rev-parse", f"{tag}^") == before
    assert git(checkout, "rev-parse", "HEAD") == before
    kept = git(checkout, "rev-parse", tag)
    assert workspace.record(place, "tiny digits", "3") == tag
    assert git(checkout, "rev-parse", tag) == kept


def test_reuse_takes_the_last_versions_searches_from_the_shared_cache_and_freezes_them(checkout: Path) -> None:
    first = checkout.with_name("first")
    workspace.prepare(checkout, first, "HEAD")
    run(first, "repro", "--quiet")
    workspace.record(first, "digits", "1")
    second = checkout.with_name("second")
    workspace.prepare(checkout, second, "HEAD")
    workspace.begin_from_last(second, "reuse")
    assert (second / "loss.txt").read_text() == "loss\n"
    stages = yaml.safe_load((second / "dvc.yaml").read_text())["stages"]
    assert all(stages[name]["frozen"] for name in workspace.REUSED)
    workspace.prepare(checkout, second, "HEAD")
    workspace.begin_from_last(second, "fresh")
    assert not any("frozen" in stage for stage in yaml.safe_load((second / "dvc.yaml").read_text())["stages"].values())


def run(folder: Path, *arguments: str) -> None:
    subprocess.run(versions.dvc(*arguments), cwd=folder, env=versions.stage_environment(), check=True)


def test_reuse_without_a_last_version_is_refused(checkout: Path) -> None:
    place = workspace.beside(checkout)
    workspace.prepare(checkout, place, "HEAD")
    with pytest.raises(ValueError, match="there is no version to reuse; retrain once with fresh"):
        workspace.begin_from_last(place, "reuse")


def test_warm_searches_start_from_the_version_in_service_if_a_deployment_made_it(checkout: Path) -> None:
    place = workspace.beside(checkout)
    workspace.prepare(checkout, place, "HEAD")
    params = load_params(place / "params.yaml")
    warm = replace(params, retrain=Retrain(search="warm"))
    assert workspace.warm_from(place, warm, "1") is None
    tag = workspace.record(place, params.publish.model, "1")
    assert workspace.warm_from(place, warm, "1") == tag
    assert workspace.warm_from(place, warm, "2") is None
    assert workspace.warm_from(place, warm, None) is None
    assert workspace.warm_from(place, params, "1") is None


def test_a_second_deployment_or_an_unknown_revision_ends_failed_with_a_sentence(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    with workspace.occupied(workspace.beside(checkout)):
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
