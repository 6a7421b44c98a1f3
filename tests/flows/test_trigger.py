"""A retrain is started by enough new images, or by few of another distribution; chance alone seldom starts one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from components.data.intake import take_in
from components.data.sources import open_source
from components.data.store import Classes, write_classes, write_split
from components.progress import unwatched
from components.settings.data import Data
from components.settings.params import Params
from components.settings.retrain import Retrain
from flows import deploy
from flows.checkout import paths
from flows.checkout.settings import load_params
from flows.schedule import trigger, workspace
from flows.settings import PRESETS
from flows.tracking import models
from tests.clones import ROOT

SIDE = 8
LOAD = models.load_by_alias


def test_a_case_done_by_hand() -> None:
    """Of the 20 ways to choose 3 of 6 images, 2 are as lopsided as this one."""
    p = trigger.mix_p_value(np.array([3, 0]), np.array([0, 3]), seed=0)
    assert p == pytest.approx(0.1, abs=0.01)


def test_the_same_mix_is_no_shift_and_another_one_is() -> None:
    assert trigger.mix_p_value(np.array([500, 300, 200]), np.array([50, 30, 20]), seed=0) > 0.9
    assert trigger.mix_p_value(np.array([500, 300, 200]), np.array([20, 30, 50]), seed=0) < 0.001


def test_a_class_that_only_the_champion_knows_and_one_that_is_new_change_nothing_of_the_level() -> None:
    assert trigger.mix_p_value(np.array([50, 0, 50, 0]), np.array([5, 0, 5]), seed=0) > 0.9


def test_chance_starts_no_more_retrains_than_the_level_says() -> None:
    rng = np.random.default_rng(1)
    mix = np.array([0.5, 0.3, 0.15, 0.05])
    ps = [
        trigger.mix_p_value(rng.multinomial(200, mix), rng.multinomial(30, mix), seed=0, draws=199) for _ in range(400)
    ]
    assert np.mean(np.array(ps) <= 0.05) < 0.08


def brightness_model() -> bytes:
    """A champion that calls an image bright (class 1) if its mean pixel is above a half, else dark (class 0)."""
    weights = np.stack([np.zeros(SIDE**2), np.full(SIDE**2, 1.0)], axis=1).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["sums"]),
            helper.make_node("Add", ["sums", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 1])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in ("logits", "probabilities")],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([0, -127.5 * SIDE**2], dtype=np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"classes": json.dumps(["bright", "dark"])})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def add_images(label: str, count: int, level: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = np.clip(rng.normal(level, 20, (SIDE, SIDE)), 0, 255).astype(np.uint8)
        path = Path("images") / label / f"{seed}-{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """What the last retrain left: half of the images bright, half dark, and a champion that tells them apart."""
    monkeypatch.chdir(tmp_path)
    data = Data(source="folder", path="images", size=SIDE, val=0.2, test=0.2)
    params = replace(load_params(PRESETS / "digits.yaml"), data=data, retrain=Retrain(min_new_images=20))
    add_images("dark", 20, 60, 1)
    add_images("bright", 20, 190, 2)
    paths.RAW.mkdir(parents=True)
    take_in(open_source(data), paths.RAW, data, unwatched)
    write_classes(paths.CLASSES, Classes(names=("bright", "dark"), size=SIDE, channels=1))
    levels = np.repeat([60, 190], 20).astype(np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (40, SIDE, SIDE, 1))
    write_split(paths.TEST, np.ascontiguousarray(images), np.repeat([0, 1], 20))
    shipped = models.Shipped(version="1", md5="m", model=brightness_model())
    monkeypatch.setattr(models, "load_by_alias", lambda name, alias: shipped)
    return params


def nothing() -> None:
    pass


def enough() -> None:
    add_images("dark", 10, 60, 3)
    add_images("bright", 10, 190, 4)


def few_alike() -> None:
    add_images("dark", 6, 60, 3)
    add_images("bright", 6, 190, 4)


def few_of_another_kind() -> None:
    add_images("dark", 6, 190, 3)  # someone photographs dark things in bright light
    add_images("bright", 6, 190, 4)


def another_class() -> None:
    add_images("dim", 6, 120, 3)


@pytest.mark.parametrize(
    ("arrive", "train", "says"),
    [
        (nothing, False, "0 new images, fewer than 20"),
        (enough, True, "20 new images, at least 20"),
        (few_alike, False, "12 new images, fewer than 20, and no shift (p = "),
        (few_of_another_kind, True, "12 new images of another distribution (p = 0.00"),
        (another_class, True, "the classes are bright, dark, dim now"),
    ],
)
def test_what_arrives_decides_and_the_sentence_says_why(
    params: Params, arrive: Callable[[], None], train: bool, says: str
) -> None:
    arrive()
    before = {file: file.read_bytes() for file in paths.RAW.iterdir()}
    decision = trigger.decide(params)
    assert (decision.train, decision.reason[: len(says)]) == (train, says)
    assert {file: file.read_bytes() for file in paths.RAW.iterdir()} == before
    assert sorted(file.name for file in paths.RAW.parent.iterdir()) == ["prepared", "raw"]


def test_a_retrain_that_was_cut_off_is_due_though_its_images_are_no_longer_new(params: Params) -> None:
    workspace.begin(Path())
    assert trigger.decide(params) == trigger.Decision(train=True, reason="the last retrain did not come to its end")
    workspace.finish(Path())
    assert not trigger.decide(params).train


def test_images_that_a_killed_poll_left_are_removed(params: Params) -> None:
    left = paths.RAW.parent / ".poll.left1234"
    left.mkdir()
    (left / "images").touch()
    trigger.decide(params)
    assert sorted(file.name for file in paths.RAW.parent.iterdir()) == ["prepared", "raw"]


def test_a_poll_that_is_ended_leaves_no_images(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "tiny.yaml", tmp_path / "params.yaml")
    script = (
        "import sys, time; from flows import deploy; from flows.schedule import trigger\n"
        "def slow(*given):\n    print('reading', flush=True)\n    time.sleep(600)\n"
        "trigger.take_in = slow\n"
        "sys.exit(deploy.main([]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == b"reading\n"
    assert len(list((tmp_path / "data").glob(".poll.*"))) == 1
    process.terminate()
    assert process.wait(60) == 143
    assert list((tmp_path / "data").iterdir()) == []


def test_a_registry_that_cannot_be_used_is_one_sentence_and_exit_code_1(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "load_by_alias", LOAD)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
    monkeypatch.setattr(deploy, "load_params", lambda: params)
    assert deploy.main([]) == 1
    assert "\nerror: the MLflow registry cannot be used (" in capsys.readouterr().err


def test_without_a_last_version_everything_is_new(params: Params) -> None:
    paths.RAW.rename("elsewhere")
    assert trigger.decide(params) == trigger.Decision(train=True, reason="the first 40 images")


def test_without_a_champion_a_retrain_is_due_whatever_arrived(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load_by_alias", lambda name, alias: None)
    assert trigger.decide(params) == trigger.Decision(train=True, reason="there is no champion")
