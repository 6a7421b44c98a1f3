"""What the final training is told: the found loss, and what it begins under."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.data.store import read_classes, read_statistics, write_statistics
from components.loss.family import SearchedLoss, decode
from components.settings.params import Params
from components.training.fit import Epoch
from flows.checkout import files, paths
from flows.stages import train
from tests.flows.test_resume_online_search import Recorder, begin_with_noise
from tests.stages import run as run_stage


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
    assert train.recipe_of(params, read_classes(paths.CLASSES), "baseline").beginning is None
    assert told(params, "baseline", monkeypatch)["beginning"] is None
