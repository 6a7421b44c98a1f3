"""The networks that people design are as large as the limit lets them, and all are trained and tested on images."""

import numpy as np
import onnx
import pytest

from components.data.store import Split
from tests.benchmarks import architecture_real as benchmark
from tests.benchmarks.architecture_real import Scale, resnet, rivals_of, train


def test_a_rival_has_the_most_flops_within_the_limit_and_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime does: 12 channels take as long as 16."""

    def times(models: dict[str, onnx.ModelProto]) -> dict[str, float]:
        slow = {"chosen": 1.0, "resnet20 8": 1.1, "resnet20 12": 1.2, "mobilenetv2 12": 0.9, "mobilenetv2 16": 0.8}
        return {name: slow.get(name, 5.0) for name in models}

    monkeypatch.setattr(benchmark, "in_turns", times)
    rivals, limit = rivals_of(Scale(widths=(8, 12, 16)))
    assert limit == 1.0
    assert {name: shape.form for name, shape in rivals.items()} == {
        "resnet8": "width 16",
        "resnet20": "width 8",
        "mobilenetv2": "width 16",
    }


def test_a_network_is_tested_on_images_that_it_has_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=1000)
    shades = np.repeat(25 * labels, 32 * 32 * 3).reshape(-1, 32, 32, 3).astype(np.uint8)
    monkeypatch.setattr(benchmark, "read_cifar10", lambda count: Split(images=shades[:count], labels=labels[:count]))
    scale = Scale(train=600, val=100, test=300, epochs=30)  # of two batches
    accuracy, seconds = train(scale, resnet(1, 8), seed=1)
    assert 0.5 < accuracy <= 1
    assert seconds > 0
