"""Progressive resizing, and a final training that goes on from a begun one."""

import torch

from components.settings.recipe import Recipe
from components.settings.train import Train
from components.training.crop_flip import base_augment
from components.training.fit import Epoch, fit
from components.training.loop import State, cross_entropy
from components.training.progressive import shrink, side_at, sides
from tests.components.test_training import TinyNetwork, stripes


def test_sides_rise_to_the_whole_in_quarters_of_the_steps() -> None:
    assert sides(32) == (20, 24, 28, 32)
    assert sides(16) == (10, 12, 14, 16)
    assert [side_at(step, 8, 32) for step in range(8)] == [20, 20, 24, 24, 28, 28, 32, 32]
    assert side_at(0, 1, 32) == 20  # a single step is at the first
    assert side_at(2, 3, 32) == 28


def test_shrinking_keeps_means_and_whole_images() -> None:
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = shrink(images, 10)
    assert small.shape == (2, 3, 10, 10)
    assert small.dtype == torch.uint8
    assert abs(float(small.float().mean() - images.float().mean())) < 3
    assert shrink(images, 16) is images


def epochs(recipe: Recipe, begun: State | None = None, count: int = 4) -> list[Epoch]:
    images, labels = stripes(64)
    settings = Train(epochs=count, recipe=recipe)
    return list(
        fit(
            TinyNetwork(), images, labels, settings=settings, augment=base_augment(recipe),
            criterion=cross_entropy(), seed=0, begun=begun,
        )
    )  # fmt: skip


def test_a_progressive_training_sees_every_side() -> None:
    seen: list[int] = []

    class Watching(TinyNetwork):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.shape[-1])
            return super().features(images)

    images, labels = stripes(64)
    recipe = Recipe(batch_size=16, progressive=True)
    settings = Train(epochs=2, recipe=recipe)
    list(
        fit(
            Watching(), images, labels, settings=settings, augment=base_augment(recipe), criterion=cross_entropy(),
            seed=0,
        )
    )  # fmt: skip
    assert seen == [4, 4, 6, 6, 8, 8, 8, 8]


def test_a_begun_training_goes_on_at_the_peak_rate_without_a_warm_up() -> None:
    recipe = Recipe(batch_size=16, warmup=0.5)
    (first, *_) = epochs(recipe)
    on = epochs(recipe, begun=first.trained)
    assert on[0].learning_rate > 0.7 * recipe.learning_rate
    assert on[-1].learning_rate < on[0].learning_rate
    assert on[0].loss < first.loss
    fresh = epochs(recipe)
    assert not torch.equal(on[-1].state["model.classifier.weight"], fresh[-1].state["model.classifier.weight"])
