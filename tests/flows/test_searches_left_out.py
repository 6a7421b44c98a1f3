"""A search that the plan or a person leaves out writes what changes nothing, in a moment, and says so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from components.architecture.costs import costs_of
from components.architecture.latency import LatencyTable
from components.architecture.parts import repeat_block
from components.architecture.space import (
    Space,
    default_architecture,
    format_architecture,
    parse_architecture,
    space_of,
)
from components.augmentation.policy import Policy
from components.data.store import read_classes
from components.loss.family import read_loss
from components.race.halving import Choice
from components.settings.budget import Budget
from components.settings.params import Params
from flows.checkout import files, paths
from flows.report import notes
from flows.report.page import SECTIONS, make_section
from flows.report.parts import Note
from flows.stages import augmentation, loss
from flows.stages.race import Reads, factors_of
from tests.clones import ROOT
from tests.flows.test_architecture import table
from tests.flows.test_resume_online_search import CHECKPOINT, Recorder, begin_with_noise
from tests.shapes import without_checks  # noqa: F401 - a fixture
from tests.stages import run as run_stage

pytestmark = pytest.mark.usefixtures("without_checks")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    params = begin_with_noise()
    return replace(
        params,
        augmentation=replace(params.augmentation, online=replace(params.augmentation.online, trunks=0)),
        loss=replace(params.loss, online=replace(params.loss.online, trunks=0)),
    )


def test_the_policy_of_no_search_changes_no_image(params: Params) -> None:
    recorder = Recorder()
    run_stage(augmentation, params, recorder, CHECKPOINT)
    record = files.read_json(paths.FOUND_AUGMENTATION)
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(Policy.from_json(record).augment()(images, torch.Generator().manual_seed(0)), images)
    assert {one["operation"]: one["share"] for one in record["operations"]}["Identity"] == 1.0
    assert paths.AUGMENTATION_TRUNKS.read_text() == paths.DISTRIBUTION.read_text() == "\n"
    assert recorder.seen == []
    assert not CHECKPOINT.exists()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_no_search_is_the_recipes_cross_entropy(params: Params, smoothing: float) -> None:
    recipe = replace(params.recipe, label_smoothing=smoothing)
    recorder = Recorder()
    run_stage(loss, replace(params, train=replace(params.train, recipe=recipe)), recorder, CHECKPOINT)
    x, w, y = torch.randn(20, 6), torch.randn(3, 6), torch.arange(20) % 3
    expected = F.cross_entropy(x @ w.T, y, label_smoothing=smoothing)
    assert float(read_loss(paths.FOUND_LOSS)(x, w, y)) == pytest.approx(float(expected), rel=1e-5)
    assert paths.LOSS_TRUNKS.read_text() == "\n"
    rows = (paths.LOSS / "curves.csv").read_text().splitlines()
    assert len(rows) == 1 + 101
    assert "<svg" in (paths.LOSS / "curves.svg").read_text()
    assert recorder.seen == []
    assert not CHECKPOINT.exists()


def test_every_file_that_dvc_expects_is_written(params: Params) -> None:
    run_stage(augmentation, params, Recorder(), CHECKPOINT)
    run_stage(loss, params, Recorder(), CHECKPOINT)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    expected = {Path(out) for word in ("augmentation", "loss") for out in stages[word]["outs"]}
    assert {file for folder in (paths.AUGMENTATION, paths.LOSS) for file in folder.iterdir()} == expected


def test_mlflow_and_the_report_say_that_nothing_was_searched(params: Params) -> None:
    run_stage(augmentation, params, Recorder(), CHECKPOINT)
    run_stage(loss, params, Recorder(), CHECKPOINT)
    for word in ("augmentation", "loss"):
        assert notes.note(word, finished=True).startswith("**Nothing was searched here.**")
        (section,) = (section for section in SECTIONS if section.anchor == word)
        ((note,),) = make_section(section, params).values()
        assert note == Note(text="Nothing was searched here. The plan says why.")


@pytest.fixture
def table_of_space(params: Params) -> Params:
    space = space_of(params.space, read_classes(paths.CLASSES))
    files.write_json(paths.LATENCY_TABLE, table(space, params).to_json())
    return params


def names(factors: dict[str, list[Choice]], factor: str, *, plain: bool) -> list[str]:
    return [choice.value for choice in factors[factor] if choice.plain is plain]


def test_what_was_not_searched_takes_no_part_in_the_race(table_of_space: Params) -> None:
    params = table_of_space
    factors = factors_of(params.part(Reads), read_classes(paths.CLASSES))
    assert names(factors, "augmentation", plain=False) == ["trivial_augment", "rand_augment"]
    assert names(factors, "loss", plain=False) == ["smoothing 0.2"]  # 0 is the recipe's own
    assert [names(factors, factor, plain=True) for factor in ("augmentation", "loss")] == [["plain"], ["plain"]]
    searched = replace(
        params,
        augmentation=replace(params.augmentation, online=replace(params.augmentation.online, trunks=3)),
        loss=replace(params.loss, online=replace(params.loss.online, trunks=3)),
    )
    factors = factors_of(searched.part(Reads), read_classes(paths.CLASSES))
    assert names(factors, "augmentation", plain=False) == ["trivial_augment", "rand_augment", "searched"]
    assert names(factors, "loss", plain=False) == ["smoothing 0.2", "searched"]


def test_networks_that_need_no_search_are_the_default_the_residual_and_the_largest_that_fit(
    table_of_space: Params,
) -> None:
    params = replace(table_of_space, budget=Budget(latency_ms=5.0))
    space = space_of(params.space, read_classes(paths.CLASSES))
    default, residual = default_architecture(space), repeat_block(space, "res_k3")
    files.write_json(paths.FOUND_ARCHITECTURE, {"architecture": "identity|res_k3|mb_k3_e2"})
    factors = factors_of(params.part(Reads), read_classes(paths.CLASSES))
    plain = names(factors, "architecture", plain=True)
    assert plain[:2] == [format_architecture(one) for one in (default, residual)]
    assert max(flops(space, one) for one in plain) == flops(space, plain[-1])
    assert names(factors, "architecture", plain=False) == ["identity|res_k3|mb_k3_e2"]
    files.write_json(paths.FOUND_ARCHITECTURE, {"architecture": plain[-1]})
    factors = factors_of(params.part(Reads), read_classes(paths.CLASSES))
    assert names(factors, "architecture", plain=False) == []  # the search found what needs none


def flops(space: Space, text: str) -> int:
    return costs_of(space, parse_architecture(space, text)).flops


def test_a_network_over_the_budget_takes_no_part(table_of_space: Params) -> None:
    space = space_of(table_of_space.space, read_classes(paths.CLASSES))
    latency = LatencyTable.from_json(files.read_json(paths.LATENCY_TABLE)).predict
    residual = latency(repeat_block(space, "res_k3"))
    assert residual > latency(default_architecture(space))
    budget = Budget(latency_ms=0.99 * residual / (1 - table_of_space.architecture.margin))
    factors = factors_of(replace(table_of_space, budget=budget).part(Reads), read_classes(paths.CLASSES))
    plain = [parse_architecture(space, text) for text in names(factors, "architecture", plain=True)]
    assert repeat_block(space, "res_k3") not in plain
    assert plain[0] == default_architecture(space)
    assert all(latency(one) < residual for one in plain)
