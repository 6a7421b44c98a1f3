"""Claims about the split: it depends on an image's own pixels alone."""

import hashlib

import pytest

from components.data.split import SPLITS, assign, count_classes, position, require_every_class


def hashes(count: int, prefix: str = "") -> list[str]:
    return [hashlib.sha256(f"{prefix}{number}".encode()).hexdigest() for number in range(count)]


def test_the_position_is_the_hash_read_as_a_fraction() -> None:
    assert position("8" + "0" * 63) == 0.5
    assert position("0" * 64) == 0.0
    assert 0.999 < position("f" * 64) < 1.0


def test_new_images_never_move_an_old_one() -> None:
    old = hashes(2_000)
    before = dict(zip(old, assign(old, [None] * len(old), 0.2, 0.2), strict=True))
    grown = sorted(old + hashes(5_000, "new"))
    after = dict(zip(grown, assign(grown, [None] * len(grown), 0.2, 0.2), strict=True))
    assert all(after[content] == split for content, split in before.items())


def test_equal_pixels_are_never_in_two_splits() -> None:
    contents = hashes(500) * 2
    assigned = assign(contents, [None] * len(contents), 0.3, 0.3)
    assert assigned[:500] == assigned[500:]


@pytest.mark.parametrize(("val", "test"), [(0.2, 0.2), (0.1, 0.05), (0.5, 0.4)])
def test_shares_are_as_asked_up_to_chance(val: float, test: float) -> None:
    n = 20_000
    assigned = assign(hashes(n), [None] * n, val, test)
    for split, share in (("val", val), ("test", test), ("train", 1 - val - test)):
        deviation = (n * share * (1 - share)) ** 0.5
        assert abs(assigned.count(split) - n * share) < 5 * deviation


def test_the_sources_own_test_split_is_the_test_split_and_val_comes_from_the_rest() -> None:
    contents = hashes(1_000)
    own = ["test" if number % 4 == 0 else "train" for number in range(1_000)]
    assigned = assign(contents, own, 0.2, 0.2)
    assert all((split == "test") == (given == "test") for split, given in zip(assigned, own, strict=True))
    assert 100 < assigned.count("val") < 200


def test_an_own_test_split_moves_nothing_between_train_and_val() -> None:
    contents = hashes(1_000)
    hashed = assign(contents, [None] * 1_000, 0.2, 0.2)
    owned = assign(contents, ["test", *["train"] * 999], 0.2, 0.2)
    assert all(now == "val" for before, now in zip(hashed[1:], owned[1:], strict=True) if before == "val")
    assert all(now == "train" for before, now in zip(hashed[1:], owned[1:], strict=True) if before == "train")


def test_a_class_without_an_image_in_a_split_is_named_with_what_to_do() -> None:
    counts = count_classes(["train", "train", "val", "test", "test"], [0, 1, 0, 0, 1], ["cat", "dog"])
    with pytest.raises(ValueError, match=r"the val split has no image of class 'dog' \(train 1, test 1\).*data\.val"):
        require_every_class(counts, own_test=False)


def test_a_gap_in_an_own_test_split_is_not_blamed_on_the_shares() -> None:
    counts = count_classes(["train", "val", "train", "val", "test"], [0, 0, 1, 1, 1], ["cat", "dog"])
    with pytest.raises(ValueError, match="own test split has no image of class 'cat'") as told:
        require_every_class(counts, own_test=True)
    assert "data.test" not in str(told.value)


def test_full_splits_are_let_through() -> None:
    labels = [0, 1] * 3
    assigned = [split for split in SPLITS for _ in range(2)]
    counts = count_classes(assigned, labels, ["cat", "dog"])
    require_every_class(counts, own_test=False)
    assert counts == {split: {"cat": 1, "dog": 1} for split in SPLITS}
