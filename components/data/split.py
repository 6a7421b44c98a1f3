"""Assignment of images to splits: decided once, when an image first arrives, recorded, and not changed by other images.

    n      number of images of a class
    a      number of these that a split has
    share  share of the class's images that a split should have

Every new image of a class goes to the split with the largest share / sqrt(a (a + 1)), the method of equal proportions
(Huntington, The apportionment of representatives in Congress, Transactions of the AMS 1928). So each split gets one
image before any gets two, and its size depends on n alone: the same images give splits of the same sizes whether they
arrive in one step or in ten. A source's own test split is kept; its other images are split into train and val.
`flows.ingest` keeps the record in data/split.csv.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from components.data.store import SPLITS, TEST, TRAIN, VAL
from components.settings.data import Data
from components.settings.require import require

HEADER = "content,split"
RESTORE = "move it away, and `dvc checkout data/split.csv.dvc` brings the last one back"
CONFLICT = ("<<<<<<<", "=======", ">>>>>>>")
"""Beginnings of lines by which git marks a merge conflict."""


@dataclass(frozen=True)
class Shares:
    """Shares of each class's images in val and test; train has the rest."""

    val: float
    test: float | None
    """None if the source has its own test split."""

    @staticmethod
    def of(data: Data, own: Iterable[str | None]) -> "Shares":
        """Return the shares that the settings ask for. `own`: the source's own split of each image."""
        return Shares(data.val, None if TEST in own else data.test)

    def each(self) -> dict[str, float]:
        """Return the share of every split, by its name."""
        test = self.test or 0.0
        return {TRAIN: 1 - self.val - test, VAL: self.val, TEST: test}

    def __str__(self) -> str:
        return f"val {self.val!r}, test {'of the source' if self.test is None else repr(self.test)}"


@dataclass(frozen=True)
class LabelledImage:
    """What an image's split depends on."""

    content: str
    """Its content hash: images with equal pixels count as one."""
    label: str
    own: str | None
    """The source's own split, `train` or `test`."""


@dataclass(frozen=True)
class Assignment:
    """The split of every image that ever arrived."""

    shares: Shares
    splits: Mapping[str, str]
    """Content hash -> split, also of images that have left, so that one that comes back is where it was."""


@dataclass(frozen=True)
class AssignmentResult:
    """An assignment that covers all images, and what it changed."""

    assignment: Assignment
    moved: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(from, to) -> number of images that moved, because the shares or the source's own split changed."""


def assign(
    images: Sequence[LabelledImage], shares: Shares, before: Assignment | None = None, anew: Collection[str] = ()
) -> AssignmentResult:
    """Give every image its split: the recorded one if the shares are unchanged; new images fill the splits.

    If the shares changed, images move between train and val and between train and test, never between val and test,
    until each class has the numbers that it should have, or train has no image left that was there before. A source's
    own test split is followed at once, whichever way an image moves. `anew`: classes that are split as if none of their
    images were recorded.
    """
    known = before.splits if before else {}
    changed = before is not None and before.shares != shares
    by_class: dict[str, list[LabelledImage]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.content):
        by_class[image.label].append(image)
    splits: dict[str, str] = {}
    for label, members in by_class.items():
        splits |= assign_class(members, shares, {} if label in anew else known, changed=changed)
    moved = Counter((known[content], split) for content, split in splits.items() if known.get(content, split) != split)
    return AssignmentResult(Assignment(shares, {**known, **splits}), dict(moved))


def assign_class(
    images: Sequence[LabelledImage], shares: Shares, known: Mapping[str, str], *, changed: bool
) -> dict[str, str]:
    """Return the splits of one class's images, which come in order of their content hash."""
    own = {image.content: TEST for image in images if shares.test is None and image.own == TEST}
    free = [image.content for image in images if image.content not in own]
    held: dict[str, list[str]] = {split: [] for split in SPLITS}
    for content in free:
        if content in known:  # an image that left the source's own test split goes to train
            held[TRAIN if known[content] == TEST and shares.test is None else known[content]].append(content)
    wanted, trained = apportion(len(free), shares.each()), iter(held[TRAIN].copy())
    if changed:
        for split in (VAL, TEST):
            held[TRAIN] += held[split][wanted[split] :]
            del held[split][wanted[split] :]
    counts = {split: len(contents) for split, contents in held.items()}
    for content in free:
        if content not in known:
            split = neediest(counts, shares.each())
            held[split].append(content)
            counts[split] += 1
    found = {content: split for split, contents in held.items() for content in contents}
    if changed:
        for split in (VAL, TEST):
            found |= dict.fromkeys(islice(trained, max(0, wanted[split] - counts[split])), split)
    return own | found


def apportion(n: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many of n images of a class each split should have."""
    counts = dict.fromkeys(SPLITS, 0)
    for _ in range(n):
        counts[neediest(counts, shares)] += 1
    return counts


def neediest(counts: Mapping[str, int], shares: Mapping[str, float]) -> str:
    """Return the split that the next image goes to; of equals the first of `SPLITS`."""
    return max(SPLITS, key=lambda split: need(shares[split], counts[split]))


def need(share: float, a: int) -> float:
    """Return the priority of a split for the next image; below 0 if it has no share."""
    if share <= 0:
        return -1.0
    return math.inf if a == 0 else share / math.sqrt(a * (a + 1))


# ---------------------------------------------------------------- the record


def write_assignment(path: Path, assignment: Assignment) -> None:
    """Write the shares, then a line for each image in order of content hash: text that git merges line by line."""
    rows = (f"{content},{split}\n" for content, split in sorted(assignment.splits.items()))
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"# {assignment.shares}\n{HEADER}\n")
        file.writelines(rows)


def read_assignment(path: Path) -> Assignment:
    """Read the record that `write_assignment` wrote. Raises ValueError, with the line, if it is no such record."""
    try:
        return parse_assignment(path, path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run `python -m flows.ingest` (or `dvc pull`) first") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise ValueError(f"{path} is no record of splits; {RESTORE}") from None


def parse_assignment(path: Path, text: str) -> Assignment:
    """Parse the text of a record. `path`: its name in messages."""
    splits: dict[str, str] = {}
    shares: set[Shares] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("# "):
            shares.add(read_shares(path, line))
        elif line.startswith(CONFLICT):
            raise ValueError(f"{path}, line {number}: git could not merge it; keep the lines of both sides")
        elif line not in (HEADER, ""):
            content, split = read_row(path, number, line)
            if splits.setdefault(content, split) != split:
                raise ValueError(
                    f"{path}, line {number}: an image is in {splits[content]} and in {split}; keep one line"
                )
    require(len(shares) == 1, f"{path} must have one line `# val ..., test ...`; {RESTORE}")
    return Assignment(shares.pop(), splits)


def read_row(path: Path, number: int, line: str) -> tuple[str, str]:
    content, _, split = line.partition(",")
    sound = len(content) == 64 and set(content) <= set("0123456789abcdef") and split in SPLITS
    require(sound, f"{path}, line {number}: {line[:80]!r} is no content hash with its split; {RESTORE}")
    return content, split


def read_shares(path: Path, line: str) -> Shares:
    val, _, test = line.removeprefix("# val ").partition(", test ")
    try:
        return Shares(float(val), None if test == "of the source" else float(test))
    except ValueError:
        raise ValueError(f"{path}: {line!r} says no shares; {RESTORE}") from None


def splits_of(contents: Sequence[str], shares: Shares, record: Path) -> list[str]:
    """Return each image's recorded split. Raises ValueError if the record does not fit the images or the settings."""
    assignment = read_assignment(record)
    own = None in (assignment.shares.test, shares.test)  # an interrupted ingest left the images of before, which fit
    require(
        assignment.shares.val == shares.val and (own or assignment.shares.test == shares.test),
        f"{record} was made for {assignment.shares}, and data.val and data.test ask for {shares}; "
        "run `python -m flows.ingest`, which moves what has to move",
    )
    unknown = sum(content not in assignment.splits for content in contents)
    require(unknown == 0, f"{record} does not have {unknown} of the images; run `python -m flows.ingest` again")
    return [assignment.splits[content] for content in contents]


# ---------------------------------------------------------------- what a split must hold


def count_classes(assigned: Sequence[str], labels: Sequence[int], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return split -> class -> number of images, with every split and class present."""
    seen = Counter(zip(assigned, labels, strict=True))
    return {split: {name: seen[split, label] for label, name in enumerate(names)} for split in SPLITS}


def require_every_class(counts: dict[str, dict[str, int]], *, own_test: bool) -> None:
    """Raise ValueError unless each split has an image of each class, without which it is neither learnt nor judged.

    No image is moved to fill the gap unless a person says so: an image that the model in service was trained on could
    not judge it. New images go there first.
    """
    missing = [(split, name) for split in SPLITS for name, images in counts[split].items() if images == 0]
    if not missing:
        return
    split, name = missing[0]
    elsewhere = ", ".join(f"{other} {counts[other][name]}" for other in SPLITS if other != split)
    own = own_test and split == TEST
    again = f"split its images anew: `python -m flows.ingest --split-anew {name!r}`"
    remedy = "add some to its test folder" if own else f"add images of it, or {again}"
    where = "the source's own test split" if own else f"the {split} split"
    more = f" ({len(missing) - 1} more such gaps)" if len(missing) > 1 else ""
    require(False, f"{where} has no image of class {name!r} ({elsewhere}){more}; {remedy}")
