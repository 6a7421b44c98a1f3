"""Which split an image belongs to: a function of its own pixels, so that no other image can move it.

u   an image's position in [0, 1): the first 52 bits of its content hash
u in [0, val) -> val, [val, val + test) -> test, else train; a source's own test split replaces the second rule.
"""

from collections import Counter
from collections.abc import Sequence

from components.params import require

SPLITS = ("train", "val", "test")
DIGITS = 13
"""Hexadecimal digits of the hash that are used: 52 bits, which a float holds exactly."""


def position(content: str) -> float:
    """Where a content hash (hexadecimal sha256) lies in [0, 1); uniform over images."""
    return int(content[:DIGITS], 16) / float(16**DIGITS)


def assign(contents: Sequence[str], own: Sequence[str | None], val: float, test: float) -> list[str]:
    """The split of each image, from its content hash and the source's own split (`train`, `test` or None).

    If any image is in the source's own test split, that is the test split, and `test` is not used: `val` is the share
    of the rest. Images with equal pixels have one hash, so no picture is in two splits.
    """
    own_test = "test" in own
    until_test = val if own_test else val + test

    def split_of(content: str, given: str | None) -> str:
        if own_test and given == "test":
            return "test"
        u = position(content)
        return "val" if u < val else "test" if u < until_test else "train"

    return [split_of(content, given) for content, given in zip(contents, own, strict=True)]


def count_classes(assigned: Sequence[str], labels: Sequence[int], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """split -> class -> images, with every split and class present."""
    seen = Counter(zip(assigned, labels, strict=True))
    return {split: {name: seen[split, label] for label, name in enumerate(names)} for split in SPLITS}


def require_batch(counts: dict[str, dict[str, int]], batch_size: int) -> None:
    """Raise ValueError unless the train split fills one batch."""
    images = sum(counts["train"].values())
    require(
        batch_size <= images,
        f"train.recipe.batch_size is {batch_size}, but the train split has {images} images; use at most {images}",
    )


REMEDIES = {"train": "lower data.val or data.test", "val": "raise data.val", "test": "raise data.test"}


def require_every_class(counts: dict[str, dict[str, int]], *, own_test: bool) -> None:
    """Raise ValueError unless each split has an image of each class: a class unseen there is neither learnt nor judged.

    No image is moved to fill the gap: it would then move back when more arrive.
    """
    missing = [(split, name) for split in SPLITS for name, images in counts[split].items() if images == 0]
    if not missing:
        return
    split, name = missing[0]
    elsewhere = ", ".join(f"{other} {counts[other][name]}" for other in SPLITS if other != split)
    remedy = "add some to its test folder" if own_test and split == "test" else f"add images of it or {REMEDIES[split]}"
    where = "the source's own test split" if own_test and split == "test" else f"the {split} split"
    more = f" ({len(missing) - 1} more such gaps)" if len(missing) > 1 else ""
    require(False, f"{where} has no image of class {name!r} ({elsewhere}){more}; {remedy}")
