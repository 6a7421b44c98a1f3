"""Claims about the split: decided when an image arrives, by shares within its class, recorded, and kept."""

import hashlib
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from components.data.split import (
    Assignment,
    LabelledImage,
    Shares,
    apportion,
    assign,
    count_classes,
    read_assignment,
    require_every_class,
    splits_of,
    write_assignment,
)
from components.data.store import SPLITS, TEST, TRAIN, VAL

FIFTHS = Shares(0.2, 0.2)


def images(count: int, label: str = "cat", prefix: str = "", own: str | None = None) -> list[LabelledImage]:
    hashes = (hashlib.sha256(f"{label}/{prefix}/{number}".encode()).hexdigest() for number in range(count))
    return [LabelledImage(content, label, own) for content in hashes]


def sizes(found: Assignment, among: list[LabelledImage]) -> Counter[tuple[str, str]]:
    """(class, split) -> images."""
    return Counter((image.label, found.splits[image.content]) for image in among)


@pytest.mark.parametrize(("val", "test"), [(0.2, 0.2), (0.1, 0.05), (0.5, 0.4), (0.01, 0.01)])
@pytest.mark.parametrize("n", [3, 4, 10, 20, 97, 1000])
def test_every_class_has_its_shares_and_an_image_in_every_split(val: float, test: float, n: int) -> None:
    shares = Shares(val, test).each()
    for split, count in apportion(n, shares).items():
        assert count >= 1
        assert abs(count - n * shares[split]) <= 2


def test_shares_by_hand() -> None:
    """One each; train again while .6 / sqrt(a (a + 1)), .42, .24, .17, is above .2 / sqrt(2) = .14."""
    assert [apportion(n, FIFTHS.each())[TRAIN] for n in range(3, 9)] == [1, 2, 3, 4, 4, 4]
    assert apportion(10, FIFTHS.each()) == {TRAIN: 6, VAL: 2, TEST: 2}


def test_a_hundred_classes_of_twenty_images_are_in_every_split() -> None:
    """Shares of all images, by hash, let 3 of 20 such data sets through."""
    every = [image for number in range(100) for image in images(20, f"class {number}")]
    found = sizes(assign(every, FIFTHS).assignment, every)
    assert {found[f"class {number}", VAL] for number in range(100)} == {4}
    assert {found[f"class {number}", TEST] for number in range(100)} == {4}


@pytest.mark.parametrize("seed", range(5))
def test_in_one_step_or_in_many_the_splits_have_the_same_sizes_and_no_image_moves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    every = [image for number in range(4) for image in images(int(rng.integers(3, 90)), f"class {number}")]
    order = rng.permutation(len(every))
    found: Assignment | None = None
    for end in sorted({*rng.integers(1, len(every), size=9).tolist(), len(every)}):
        arrived = [every[index] for index in order[:end]]
        assigned = assign(arrived, FIFTHS, found)
        assert assigned.moved == {}
        assert found is None or assigned.assignment.splits.items() >= found.splits.items()
        found = assigned.assignment
    assert found is not None
    assert sizes(found, every) == sizes(assign(every, FIFTHS).assignment, every)


def test_an_image_that_left_comes_back_to_where_it_was_and_others_do_not_move_meanwhile() -> None:
    every = images(50)
    before = assign(every, FIFTHS).assignment
    left = [image for image in every if before.splits[image.content] == TEST]
    stayed = [image for image in every if image not in left]
    without = assign([*stayed, *images(5, prefix="new")], FIFTHS, before)
    assert without.moved == {}
    assert {without.assignment.splits[image.content] for image in images(5, prefix="new")} == {TEST}
    again = assign([*every, *images(5, prefix="new")], FIFTHS, without.assignment)
    assert again.assignment.splits.items() >= before.splits.items()


@pytest.mark.parametrize(
    ("after", "ways"),
    [
        (Shares(0.2, 0.3), {(TRAIN, TEST)}),
        (Shares(0.1, 0.2), {(VAL, TRAIN)}),
        (Shares(0.4, 0.1), {(TRAIN, VAL), (TEST, TRAIN)}),
        (Shares(0.7, 0.2), {(TRAIN, VAL)}),
    ],
)
def test_other_shares_move_images_out_of_train_or_into_it_and_only_as_many_as_they_must(
    after: Shares, ways: set[tuple[str, str]]
) -> None:
    every = [*images(50), *images(31, "dog")]
    before = assign(every, FIFTHS).assignment
    found = assign(every, after, before)
    assert set(found.moved) == ways
    old, new = sizes(before, every), sizes(found.assignment, every)
    assert new == sizes(assign(every, after).assignment, every)
    for way, count in found.moved.items():
        part = next(split for split in way if split != TRAIN)
        assert count == sum(abs(new[label, part] - old[label, part]) for label in ("cat", "dog"))


def test_what_new_images_can_fill_is_not_taken_out_of_train() -> None:
    before = assign(images(40), FIFTHS).assignment
    found = assign([*images(40), *images(40, prefix="new")], Shares(0.2, 0.3), before)
    assert found.moved == {}
    assert sizes(found.assignment, [*images(40), *images(40, prefix="new")])["cat", TEST] == 24


def test_the_sources_own_test_split_is_the_test_split_and_val_comes_from_the_rest() -> None:
    every = [*images(30, own="train"), *images(12, prefix="t", own="test")]
    found = assign(every, Shares(0.2, None)).assignment
    assert sizes(found, every) == {("cat", TRAIN): 24, ("cat", VAL): 6, ("cat", TEST): 12}
    assert all(found.splits[image.content] == TEST for image in every if image.own == "test")


def test_a_source_that_begins_to_bring_its_own_test_split_is_obeyed_and_the_moves_are_counted() -> None:
    every = images(50)
    before = assign(every, FIFTHS).assignment
    owned = [
        LabelledImage(image.content, image.label, "test" if number < 10 else "train")
        for number, image in enumerate(every)
    ]
    found = assign(owned, Shares(0.2, None), before)
    assert {image.content for image in owned if found.assignment.splits[image.content] == TEST} == {
        image.content for image in owned[:10]
    }
    assert sum(found.moved.values()) > 0


def test_what_the_source_calls_train_again_does_not_stay_in_its_test_split() -> None:
    every = [*images(30, own="train"), *images(12, prefix="t", own="test")]
    before = assign(every, Shares(0.2, None)).assignment
    after = [
        *images(30, own="train"),
        *images(12, prefix="t", own="train")[:2],
        *images(12, prefix="t", own="test")[2:],
    ]
    found = assign(after, Shares(0.2, None), before)
    assert found.moved == {(TEST, TRAIN): 2}
    assert sizes(found.assignment, after)["cat", TEST] == 10


def test_a_class_is_split_anew_where_a_person_says_so_and_no_other_is() -> None:
    """Of images that were moved into a folder of their own, all from train, none is in val or test."""
    every = images(40)
    before = assign(every, FIFTHS).assignment
    own = [image for image in every if before.splits[image.content] == TRAIN][:12]
    after = [
        *(image for image in every if image not in own),
        *(LabelledImage(image.content, "new", None) for image in own),
    ]
    kept = assign(after, FIFTHS, before)
    assert (sizes(kept.assignment, after)["new", TRAIN], kept.moved) == (12, {})
    found = assign(after, FIFTHS, before, anew=["new"])
    wanted = apportion(12, FIFTHS.each())
    assert found.moved == {(TRAIN, VAL): wanted[VAL], (TRAIN, TEST): wanted[TEST]}
    others = {image.content: before.splits[image.content] for image in every if image not in own}
    assert found.assignment.splits.items() >= others.items()


def test_the_record_of_an_ingest_that_was_cut_off_fits_the_images_before(tmp_path: Path) -> None:
    """The source had begun to bring its own test split, and the images were not yet replaced."""
    record = tmp_path / "split.csv"
    contents = [image.content for image in images(20)]
    for written, asked in ((Shares(0.2, None), FIFTHS), (FIFTHS, Shares(0.2, None))):
        write_assignment(record, assign(images(20), written).assignment)
        assert len(splits_of(contents, asked, record)) == 20


def test_the_record_is_text_with_a_line_an_image_and_comes_back_as_it_was(tmp_path: Path) -> None:
    for shares in (FIFTHS, Shares(0.1, None)):
        written = assign(images(20), shares).assignment
        write_assignment(tmp_path / "split.csv", written)
        assert read_assignment(tmp_path / "split.csv") == written
    lines = (tmp_path / "split.csv").read_text().splitlines()
    assert lines[:2] == ["# val 0.1, test of the source", "content,split"]
    assert lines[2:] == sorted(lines[2:])
    assert len(lines) == 22


def test_records_of_two_branches_merge_line_by_line(tmp_path: Path) -> None:
    ours, theirs = images(9, prefix="ours"), images(9, prefix="theirs")
    base = assign(images(20), FIFTHS).assignment
    write_assignment(tmp_path / "base", base)
    write_assignment(tmp_path / "ours", assign([*images(20), *ours], FIFTHS, base).assignment)
    write_assignment(tmp_path / "theirs", assign([*images(20), *theirs], FIFTHS, base).assignment)
    subprocess.run(["git", "merge-file", "--union", "ours", "base", "theirs"], cwd=tmp_path, check=True)
    merged = read_assignment(tmp_path / "ours")
    assert merged.splits.keys() == {image.content for image in [*images(20), *ours, *theirs]}
    assert assign([*images(20), *ours, *theirs], FIFTHS, merged).moved == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("content,split\n", "must have one line"),
        ("# val much, test 0.2\ncontent,split\n", "says no shares"),
        ("# val 0.2, test 0.2\ncontent,split\nabc,train\n", "line 3: 'abc,train' is no content hash"),
        (f"# val 0.2, test 0.2\ncontent,split\n{'a' * 64},valid\n", "line 3: .* is no content hash"),
        (
            f"# val 0.2, test 0.2\ncontent,split\n{'a' * 64},val\n{'a' * 64},test\n",
            "line 4: an image is in val and in test",
        ),
        ("# val 0.2, test 0.2\n<<<<<<< HEAD\n", "line 2: git could not merge it"),
    ],
)
def test_what_is_no_record_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_assignment(tmp_path / "split.csv")


def test_a_record_of_other_shares_or_images_says_what_to_run(tmp_path: Path) -> None:
    record = tmp_path / "split.csv"
    with pytest.raises(ValueError, match=r"split\.csv is missing; run `python -m flows\.ingest`"):
        splits_of([], FIFTHS, record)
    write_assignment(record, assign(images(20), FIFTHS).assignment)
    contents = [image.content for image in images(20)]
    assert Counter(splits_of(contents, FIFTHS, record)) == {TRAIN: 12, VAL: 4, TEST: 4}
    with pytest.raises(
        ValueError, match=r"made for val 0\.2, test 0\.2, and .* ask for val 0\.3.*run `python -m flows\.i"
    ):
        splits_of(contents, Shares(0.3, 0.2), record)
    with pytest.raises(ValueError, match=r"does not have 1 of the images; run `python -m flows\.ingest`"):
        splits_of([*contents, "b" * 64], FIFTHS, record)


def test_a_class_without_an_image_in_a_split_is_named_with_what_to_do() -> None:
    counts = count_classes(["train", "train", "val", "test", "test"], [0, 1, 0, 0, 1], ["cat", "dog"])
    with pytest.raises(ValueError, match=r"the val split has no image of class 'dog' \(train 1, test 1\); add images"):
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
