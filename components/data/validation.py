"""Validation of a source's images, and the report on those that are not accepted.

Each image is examined alone first (`examine`), then all together (`resolve`): a picture under two labels is quarantined
in every copy, because nobody can say which label is right; a picture that occurs twice under one label is kept once.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from components.data.images import channels_of, content_hash, decode
from components.data.records import Entry, Record, Refused, Rule, Source
from components.settings.require import require

FEWEST = 3
"""Number of images that a class needs, one for each split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """One image that is not accepted."""

    path: str
    """Path relative to the source."""
    label: str | None
    rule: Rule
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of validation for every record of a source."""

    source: str
    classes: tuple[str, ...]
    kept: tuple[Entry, ...]
    refused: tuple[Rejection, ...]
    quarantined: tuple[Rejection, ...]
    duplicates: tuple[Rejection, ...]
    notes: tuple[str, ...] = ()
    """Other decisions about the source, a sentence each."""

    @property
    def rejected(self) -> dict[str, tuple[Rejection, ...]]:
        return {"refused": self.refused, "quarantined": self.quarantined, "duplicates": self.duplicates}


def examine(record: Record, classes: frozenset[str] | None, max_pixels: int) -> tuple[bytes, str, int]:
    """Return (encoded bytes, content hash, channels) of an image that is sound on its own; raises `Refused`."""
    data = record.read()
    if classes is not None and record.label not in classes:
        raise Refused(Rule.UNKNOWN_CLASS, f"the source has no class {record.label!r}")
    if not data:
        raise Refused(Rule.EMPTY, "it has zero bytes")
    image = decode(data, max_pixels)
    return data, content_hash(image), channels_of(image)


def reject(record: Record, refused: Refused) -> Rejection:
    return Rejection(path=record.path, label=record.label, rule=refused.rule, reason=refused.reason)


def resolve(source: Source, entries: Sequence[Entry], refused: Sequence[Rejection]) -> Report:
    """Compare all sound images: quarantine contradictions, and keep one of each picture."""
    by_content: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_content[entry.content].append(entry)
    kept: list[Entry] = []
    quarantined: list[Rejection] = []
    duplicates: list[Rejection] = []
    for copies in by_content.values():
        copies.sort(key=lambda copy: (copy.split != "test", copy.path))
        if len({copy.label for copy in copies}) > 1:
            quarantined += contradictions(copies)
        else:
            kept.append(copies[0])
            reason = f"the same picture as {copies[0].path}"
            duplicates += [turn_down(copy, Rule.DUPLICATE, reason) for copy in copies[1:]]
    classes, unused = used_classes(source.classes, [*entries, *refused])
    return Report(
        source=source.name,
        classes=classes,
        kept=tuple(sorted(kept, key=lambda entry: entry.content)),
        refused=in_order(refused),
        quarantined=in_order(quarantined),
        duplicates=in_order(duplicates),
        notes=(*source.notes, *unused),
    )


def contradictions(copies: Sequence[Entry]) -> list[Rejection]:
    """Reject every copy of a picture that has two or more labels."""
    first = {copy.label: copy.path for copy in reversed(copies)}
    reason = "the same picture is " + " and ".join(f"{label!r} in {first[label]}" for label in sorted(first))
    return [turn_down(copy, Rule.TWO_LABELS, reason) for copy in copies]


def turn_down(entry: Entry, rule: Rule, reason: str) -> Rejection:
    return Rejection(path=entry.path, label=entry.label, rule=rule, reason=reason)


def in_order(rejections: Iterable[Rejection]) -> tuple[Rejection, ...]:
    return tuple(sorted(rejections, key=lambda one: (one.path, one.rule, one.reason)))


def used_classes(
    names: tuple[str, ...] | None, found: Iterable[Entry | Rejection]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes that some image has, even a rejected one, and a note on names that no image has.

    Bare label numbers name classes in numerical order. A filtered data set keeps the names of all its former classes:
    those without an image are no classes here.
    """
    borne = {one.label for one in found if one.label is not None}
    if names is None:
        return tuple(sorted(borne, key=int)), ()
    unused = [name for name in names if name not in borne]
    note = f"class names that no image bears, left out: {', '.join(unused)}"
    return tuple(name for name in names if name in borne), (note,) if unused else ()


def require_enough(report: Report) -> None:
    """Raise ValueError, with a reason of a rejected image, for a class that cannot be in all three splits."""
    found = f"{len(report.classes)} class(es){summarise_classes(report)}"
    require(len(report.classes) >= 2, f"data.source {report.source} gives {found}; a classifier needs at least 2")
    left = Counter(entry.label for entry in report.kept)
    for name in report.classes:
        lost = [one for one in (*report.refused, *report.quarantined) if one.label == name]
        example = f" ({len(lost)} turned away; {lost[0].path}: {lost[0].reason})" if lost else ""
        require(
            left[name] >= FEWEST,
            f"class {name!r} is left with {left[name]} images{example}; "
            f"a class needs at least {FEWEST}: add images or leave the class out",
        )


def summarise_classes(report: Report) -> str:
    """Return, in brackets, the classes, the first folder that is none, and the notes."""
    folders = [f"{one.path}: {one.reason}" for one in report.refused if one.rule == Rule.NO_IMAGE]
    said = [", ".join(report.classes), *folders[:1], *report.notes]
    return f" ({'; '.join(part for part in said if part)})"


def describe(report: Report) -> dict[str, object]:
    """Return the contents of validation.json: counts, counts by rule and by class, and every rejection."""
    labels = {part: Counter(one.label for one in ones) for part, ones in report.rejected.items()}
    labels["kept"] = Counter(entry.label for entry in report.kept)
    return {
        "source": report.source,
        "counts": {part: counts.total() for part, counts in labels.items()},
        "rules": dict(Counter(one.rule.value for ones in report.rejected.values() for one in ones)),
        "classes": {name: {part: counts[name] for part, counts in labels.items()} for name in report.classes},
        **({"notes": list(report.notes)} if report.notes else {}),
        **{part: [explain(one) for one in ones] for part, ones in report.rejected.items()},
    }


def explain(one: Rejection) -> dict[str, str | None]:
    return {"path": one.path, "class": one.label, "rule": one.rule.value, "reason": one.reason}
