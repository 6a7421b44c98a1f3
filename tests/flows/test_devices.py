"""The setting as devices; no CPU run passes for a CUDA one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flows.checkout.settings import load_params
from flows.runtime.devices import devices_of
from flows.runtime.observer import Silent
from flows.stages import architecture, augmentation, loss, race, train
from tests.clones import ROOT
from tests.stages import run as run_stage

REFUSAL = r"^device is cuda, but torch finds no CUDA device here; set device: cpu in params\.yaml$"
STAGES = {
    "architecture": (architecture, (Path("checkpoint"),)),
    "augmentation": (augmentation, (Path("checkpoint"),)),
    "loss": (loss, (Path("checkpoint"),)),
    "race": (race, (Path("checkpoint"),)),
    "train searched": (train, ("searched", Path("checkpoint"))),
    "train baseline": (train, ("baseline", Path("checkpoint"))),
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
    module, own = STAGES[stage]
    settings = replace(load_params(ROOT / "tests" / "tiny.yaml"), device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=REFUSAL):
        run_stage(module, settings, Silent(), *own)
    assert not list(tmp_path.iterdir())
