"""The setting as devices; no CPU run passes for a CUDA one."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.checkout.settings import load_params
from flows.runtime.devices import devices_of
from flows.runtime.observer import Silent
from flows.stages import architecture, augmentation, loss, train
from tests.clones import ROOT

REFUSAL = r"^device is cuda, but torch finds no CUDA device here; set device: cpu in params\.yaml$"
STAGES = {
    "architecture": partial(architecture.run, checkpoint=Path("checkpoint")),
    "augmentation": partial(augmentation.run, checkpoint=Path("checkpoint")),
    "loss": partial(loss.run, checkpoint=Path("checkpoint")),
    "train searched": partial(train.run, variant="searched", checkpoint=Path("checkpoint")),
    "train baseline": partial(train.run, variant="baseline", checkpoint=Path("checkpoint")),
}


def test_the_cpu_is_one_device() -> None:
    assert devices_of("cpu") == (torch.device("cpu"),)


def test_cuda_is_every_device_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [str(device) for device in devices_of("cuda")] == ["cuda:0", "cuda:1", "cuda:2"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_finds_no_cuda_device_says_so_in_one_sentence_before_anything_else(
    stage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run: Any = STAGES[stage]
    settings = replace(load_params(ROOT / "tests" / "tiny.yaml"), device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=REFUSAL):
        run(settings, Silent())
    assert not list(tmp_path.iterdir())
