"""What the final training is told: what the race decided, for how long, and what it begins from and under."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from components.architecture.network import make_network
from components.architecture.space import parse_architecture, space_of
from components.data.store import read_classes, read_statistics, write_statistics
from components.loss.family import SearchedLoss, decode
from components.settings.params import Params
from components.training.crop_flip import base_augment
from components.training.fit import Epoch
from components.training.loop import initial_state
from flows.checkout import files, paths
from flows.stages import train
from tests.flows.test_resume_online_search import Recorder, begin_with_noise
from tests.stages import run as run_stage
from tests.stages import write_decision, write_speeds


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """With a found loss that is bounded and has class margins."""
    monkeypatch.chdir(tmp_path)
    params = begin_with_noise()
    params = replace(params, train=replace(params.train, epochs=1))
    statistics = read_statistics(paths.STATISTICS)
    write_statistics(paths.STATISTICS, replace(statistics, counts={"train": {"a": 60, "b": 30, "c": 6}}))
    found = files.read_json(paths.FOUND_ARCHITECTURE)
    files.write_json(paths.FOUND_ARCHITECTURE, found | {"budgets": [found]})
    bounded = decode(np.array([0.1] * 8 + [0.0, 0.7]), counts=np.array([60, 30, 6]))
    files.write_json(paths.FOUND_LOSS, bounded.to_json())
    write_decision(found["architecture"])
    write_speeds(space_of(params.space, read_classes(paths.CLASSES)))
    return params


def told(params: Params, variant: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `fit` gets of the stage."""
    got: dict[str, Any] = {}

    class Seen(Exception):
        pass

    def seeing(*arguments: Any, **more: Any) -> Iterator[Epoch]:
        got.update(more)
        raise Seen

    monkeypatch.setattr(train, "fit", seeing)
    with pytest.raises(Seen):
        run_stage(train, params, Recorder(), variant, Path("checkpoint"))
    return got


def test_a_searched_network_begins_under_cross_entropy_with_the_found_margins(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = told(params, "searched", monkeypatch)
    margins = got["criterion"].class_logits
    assert got["criterion"].knots["tau"][0] > 0 < margins.abs().max()
    plain = SearchedLoss(t=[-1.0, 1.0], tau=[0.0, 1.0], class_logits=margins.tolist())
    x, w, y = torch.randn(20, 6), torch.randn(3, 6), torch.arange(20) % 3
    assert torch.equal(got["beginning"](x, w, y), plain(x, w, y))
    assert got["beginning"](x, w, y) != got["criterion"](x, w, y)


def test_the_baseline_has_cross_entropy_from_first_to_last(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    got = told(params, "baseline", monkeypatch)
    x, w, y = torch.randn(20, 6), torch.randn(3, 6), torch.arange(20) % 3
    assert torch.equal(got["criterion"](x, w, y), F.cross_entropy(x @ w.T, y))
    assert got["beginning"] is None


def test_the_winner_goes_on_from_the_races_weights_and_all_others_from_first_ones(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = files.read_json(paths.FOUND_ARCHITECTURE)["architecture"]
    begun = {key: value + 1 for key, value in initial_state(first_network(params, found)).items()}
    write_decision(found, begun)
    files.write_json(paths.FOUND_ARCHITECTURE, {"architecture": found, "budgets": [{"architecture": found}] * 2})
    got = told(params, "searched", monkeypatch)["begun"]
    assert got.keys() == begun.keys()
    assert all(torch.equal(got[key], value) for key, value in begun.items())
    assert told(params, "baseline", monkeypatch)["begun"] is None
    assert told(params, "budget_2", monkeypatch)["begun"] is None


def first_network(params: Params, architecture: str) -> torch.nn.Module:
    classes, statistics = read_classes(paths.CLASSES), read_statistics(paths.STATISTICS)
    return make_network(params.space, classes, statistics, architecture, params.seed)


def test_what_the_race_decided_is_trained_and_not_what_the_searches_found(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_decision("res_k3|res_k3|res_k3", loss="smoothing 0.2", augmentation="plain")
    got = told(params, "searched", monkeypatch)
    x, w, y = torch.randn(20, 6), torch.randn(3, 6), torch.arange(20) % 3
    assert torch.equal(got["criterion"](x, w, y), F.cross_entropy(x @ w.T, y, label_smoothing=0.2))
    recipe = train.recipe_of(params.part(train.Reads), read_classes(paths.CLASSES), "searched", 136)
    assert recipe.architecture == "res_k3|res_k3|res_k3"
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    plain, drawn = (torch.Generator().manual_seed(0) for _ in range(2))
    assert torch.equal(recipe.augment(images, drawn), base_augment(params.recipe)(images, plain))


def test_the_baseline_trains_as_long_as_searches_race_and_final_training_together(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_speeds(space_of(params.space, read_classes(paths.CLASSES)), architecture=1.0, race=0.5, final=2.0)
    stated = replace(params, train=replace(params.train, epochs=4))
    assert told(stated, "searched", monkeypatch)["settings"].epochs == 4
    assert told(stated, "baseline", monkeypatch)["settings"].epochs == 7  # 3.5 seconds instead of 2


def test_without_stated_epochs_they_are_those_that_the_recorded_speeds_and_seconds_allow(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of(params.space, read_classes(paths.CLASSES))
    speeds = write_speeds(space, loss=1.0, final=4.0)
    open_ = replace(params, train=replace(params.train, epochs=None))
    found = files.read_json(paths.FOUND_ARCHITECTURE)["architecture"]
    each = speeds.costs.seconds(parse_architecture(space, found)) * 136  # images of train and val
    assert each < 1
    assert told(open_, "searched", monkeypatch)["settings"].epochs == round(4 / each)
    assert told(open_, "baseline", monkeypatch)["settings"].epochs == round(5 / each) > round(4 / each)
    dearer = "res_k3|" + found.partition("|")[2]
    write_decision(dearer)
    more = speeds.costs.seconds(parse_architecture(space, dearer)) * 136
    assert told(open_, "searched", monkeypatch)["settings"].epochs == round(4 / more) < round(4 / each)
