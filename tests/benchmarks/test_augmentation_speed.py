"""The rivals in the speed benchmark do the same work, and its table says what the rows say."""

import pytest
import torch

from components.augmentation.operations import ELEMENTS
from tests.benchmarks import augmentation_speed as speed


@pytest.mark.parametrize(
    ("name", "most"),
    [
        (speed.OURS, 1e-7),
        ("torchvision v2, an image a call", 0.02),
        ("torchvision v2, grouped", 0.02),
        ("kornia", 0.06),
    ],
)
def test_every_implementation_gives_what_pil_gives(name: str, most: float) -> None:
    """On average over an element's images, pixels as 0..1; but for Cutout, whose places rivals share or draw."""
    elements = [k for k, element in enumerate(ELEMENTS) if name == speed.OURS or element.operation != "Cutout"]
    _, images = speed.some_images(4 * len(elements))
    drawn = speed.draw_work(images, 0)
    identity = [str(element) for element in ELEMENTS].index("Identity")
    chosen = torch.stack((torch.tensor(elements).repeat(4), torch.full((len(images),), identity)), dim=1)
    work = speed.Work(images=images, chosen=chosen, uniforms=drawn.uniforms)
    theirs, wanted = (
        torch.cat([*speed.IMPLEMENTATIONS[n].prepare(work)(len(images))]) for n in (name, speed.REFERENCE)
    )
    far = (theirs - wanted).abs().mean(dim=(1, 2, 3)).view(4, -1).mean(0)
    assert theirs.shape == wanted.shape
    assert {str(ELEMENTS[k]): d for k, d in zip(elements, far.tolist(), strict=True) if d > most} == {}


def test_the_table_compares_with_pil_and_with_a_training_step() -> None:
    rates = {(speed.REFERENCE, 256): 2000, (speed.OURS, 256): 20000, (speed.YARDSTICK, 256): 500}
    rows = [
        {"implementation": name, "batch": batch, "data": "CIFAR-10", "seed": 1, "images_per_cpu_second": rate}
        for (name, batch), rate in rates.items()
    ]
    assert "| ours | 256 | 20000 | 10.0 | 2.5 |" in speed.table(rows)
