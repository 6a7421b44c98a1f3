"""A served model is asked in the words of the registered file; the whole way is in tests/test_pages.py."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows import classify
from tests.flows.test_publish import NAMES, PERFECT
from tests.flows.test_tracking import SIDE


def test_a_server_of_another_version_is_not_read_with_the_wrong_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "1.png"
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(image)
    monkeypatch.setattr(classify, "ask", lambda url, images: np.full((len(images), len(NAMES) + 1), 0.2))
    with pytest.raises(classify.NoAnswer, match=r"knows 5 classes, the registered model 4; start the server again"):
        classify.classify("http://127.0.0.1:5001", [image], PERFECT)
    monkeypatch.setattr(classify, "ask", lambda url, images: np.array([[0.1, 0.7, 0.1, 0.1]]))
    assert classify.classify("http://127.0.0.1:5001", [image], PERFECT) == [("b", 0.7)]
