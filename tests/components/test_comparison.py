"""Two models on the same images: hand-done cases, what the tests promise, and where they differ."""

import math

import numpy as np
import pytest

from components.shipping.comparison import Paired, chance, class_losses, loss_bound, mcnemar, pair


def paired(lost: int, won: int, images: int = 1000) -> Paired:
    return Paired(images=images, lost=lost, won=won)


def test_only_images_on_which_one_model_alone_is_right_count() -> None:
    right = np.array([True, True, False, False, True])
    reference = np.array([True, False, True, False, False])
    assert pair(right, reference) == Paired(images=5, lost=1, won=2)


@pytest.mark.parametrize(
    ("lost", "won", "chance"),
    [(5, 0, 1 / 32), (8, 2, 56 / 1024), (3, 3, 42 / 64), (0, 5, 1.0), (0, 0, 1.0)],
)
def test_mcnemar_is_the_exact_tail_of_a_fair_coin(lost: int, won: int, chance: float) -> None:
    assert mcnemar(paired(lost, won)) == pytest.approx(chance)


def test_mcnemar_calls_an_equally_good_model_worse_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(0)
    losses = rng.binomial(40, 0.5, size=4000)
    refused = np.mean([mcnemar(paired(int(lost), int(40 - lost))) < 0.05 for lost in losses])
    assert 0.02 < refused <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_the_bound_is_the_normal_one_where_the_counts_are_large() -> None:
    counts = paired(600, 400, 10_000)
    deviation = math.sqrt((0.1 - 0.02**2) / 10_000)
    bound = loss_bound(counts, 0.05, np.random.default_rng(0))
    assert bound == pytest.approx(0.02 + 1.645 * deviation, abs=0.1 * deviation)


def test_the_bound_grows_with_the_certainty_asked_for_and_is_the_same_for_the_same_seed() -> None:
    bounds = [loss_bound(paired(10, 10), alpha, np.random.default_rng(1)) for alpha in (0.3, 0.05, 0.01, 0.01)]
    assert bounds[0] < bounds[1] < bounds[2] == bounds[3]


@pytest.mark.parametrize("images", [5, 20, 299, 1000])
def test_without_a_lost_image_the_bound_is_the_exact_one_of_so_many_images(images: int) -> None:
    bound = loss_bound(paired(0, 0, images), 0.05, np.random.default_rng(1))
    assert bound == pytest.approx(1 - 0.05 ** (1 / images), rel=0.03)


@pytest.mark.parametrize("images", [20, 50, 100, 200, 400])
@pytest.mark.parametrize(("margin", "winning"), [(0.01, 0.0), (0.01, 0.03), (0.01, 0.12), (0.05, 0.0), (0.05, 0.1)])
def test_a_model_that_loses_just_the_margin_passes_no_more_often_than_alpha(
    images: int, margin: float, winning: float
) -> None:
    """Images drawn with replacement let up to 81 % of such models pass (n = 20, margin 0.01)."""
    sets = 1000
    shares = [margin + winning, winning, 1 - margin - 2 * winning]
    drawn, counts = np.unique(np.random.default_rng(2).multinomial(images, shares, sets), axis=0, return_counts=True)
    bounds = [loss_bound(paired(int(lost), int(won), images), 0.05, np.random.default_rng(3)) for lost, won, _ in drawn]
    passed = counts[np.array(bounds) <= margin].sum() / sets
    assert passed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / sets)


def test_each_class_is_judged_by_its_own_images_and_the_clearest_loss_comes_first() -> None:
    """By hand: 5 lost of 5 are 1/32, times 3 classes; of the next, 3 lost and 1 won, 5/16, times 2."""
    actual = np.repeat(["cat", "dog", "fox"], [5, 8, 4])
    reference = np.array([1] * 5 + [1, 1, 1, 0, 1, 1, 0, 0] + [0, 0, 1, 1], dtype=bool)
    right = np.array([0] * 5 + [0, 0, 0, 1, 1, 1, 0, 0] + [1, 1, 1, 1], dtype=bool)
    found = class_losses(right, reference, actual)
    assert [(loss.name, loss.paired.lost, loss.paired.won, loss.paired.images) for loss in found] == [
        ("cat", 5, 0, 5),
        ("dog", 3, 1, 8),
        ("fox", 0, 2, 4),
    ]
    assert [loss.p for loss in found] == pytest.approx([3 / 32, 2 * 5 / 16, 1.0])


@pytest.mark.parametrize("images", [18, 100, 1000])
@pytest.mark.parametrize("classes", [2, 10, 50])
def test_equal_models_are_refused_no_more_often_than_alpha_whatever_the_size_of_a_class(
    images: int, classes: int
) -> None:
    """A fixed limit of a tenth refused 47 % of them at 18 images a class and 10 classes."""
    draws = 400
    lost = np.random.default_rng(0).multinomial(images, [0.06, 0.06, 0.88], size=(draws, classes))
    alone = {(a, b): mcnemar(paired(a, b)) for a, b in {(int(a), int(b)) for a, b, _ in lost.reshape(-1, 3)}}
    smallest = np.array([min(alone[int(a), int(b)] for a, b, _ in counts) for counts in lost])
    refused = float((classes * smallest < 0.05).mean())
    assert refused <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


def test_a_class_that_is_lost_is_found_among_many() -> None:
    actual = np.repeat([f"class {number:02d}" for number in range(50)], 20)
    reference = np.ones(1000, dtype=bool)
    right = ~((actual == "class 07") & (np.arange(1000) % 20 < 12))
    worst, *others = class_losses(right, reference, actual)
    assert (worst.name, worst.paired.lost, worst.p < 0.05) == ("class 07", 12, True)
    assert {loss.p for loss in others} == {1.0}


@pytest.mark.parametrize(("classes", "each"), [(3, 60), (10, 36), (100, 10), (2, 20)])
def test_a_guesser_is_taken_for_a_model_no_more_often_than_alpha(classes: int, each: int) -> None:
    """One image more than the most frequent class has let 42 to 49 % of them through."""
    rng = np.random.default_rng(0)
    actual = np.repeat([f"{number}" for number in range(classes)], each)
    passed = np.mean([chance(rng.permutation(actual), actual) <= 0.05 for _ in range(400)])
    assert passed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_chance_is_the_share_of_shuffles_that_agree_as_often() -> None:
    rng = np.random.default_rng(0)
    actual, said = np.repeat(list("abc"), [20, 10, 5]), np.repeat(list("aabc"), [15, 8, 8, 4])
    shuffled = np.mean([(rng.permutation(said) == actual).sum() >= (said == actual).sum() for _ in range(4000)])
    assert chance(said, actual) == pytest.approx(float(shuffled), abs=0.02)


def test_a_constant_answer_one_class_or_one_image_show_nothing() -> None:
    assert chance(np.repeat("a", 10), np.repeat(["a", "b"], [9, 1])) == 1.0
    assert chance(np.repeat("a", 10), np.repeat("a", 10)) == 1.0
    assert chance(np.array(["a"]), np.array(["a"])) == 1.0
