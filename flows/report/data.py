"""Make the section on the data version: the images of each class, and what validation turned away."""

from collections.abc import Iterator
from itertools import islice

from components.data.store import SPLITS, read_statistics
from components.settings.params import Params
from flows.checkout import paths, versions
from flows.checkout.files import read_json
from flows.report.parts import Maker, Note, Part, Table
from flows.report.reading import fold_text, quantity

LISTED = 20
"""Largest number of images that are listed with the reason why they were turned away."""


def version(params: Params) -> Iterator[Part]:
    digest = versions.data_digest(paths.RAW_DVC)
    yield Note(text=f"Source {params.data.source}; data version {digest} (DVC's md5 of {paths.RAW}).")


def classes(params: Params) -> Iterator[Part]:
    counts = read_statistics(paths.STATISTICS).counts
    splits = {split: counts[split] for split in SPLITS}
    names = list(dict.fromkeys(name for counts in splits.values() for name in counts))
    own = [[splits[split].get(name, 0) for split in splits] for name in names]
    totals = [sum(column) for column in zip(*own, strict=True)]
    rows = [[name, *(f"{n:,}" for n in line), f"{sum(line):,}"] for name, line in zip(names, own, strict=True)]
    yield Table(
        header=["class", *splits, "all"],
        rows=[*rows, ["all", *(f"{n:,}" for n in totals), f"{sum(totals):,}"]],
        caption=f"An image stays in the split that {paths.SPLIT} has it in, whatever else arrives or leaves.",
        fold=fold_text(len(names)),
    )


def turned_away(params: Params) -> Iterator[Part]:
    report = read_json(paths.VALIDATION)
    counts = report["counts"]
    parts = ("refused", "quarantined", "duplicates")
    away = sum(counts[part] for part in parts)
    if not away:
        yield Note(text=f"Validation turned none of {quantity(counts['kept'], 'image')} away.")
        return
    rules = ", ".join(f"{rule} {count}" for rule, count in sorted(report["rules"].items(), key=lambda item: -item[1]))
    numbers = ", ".join(f"{counts[part]} {part}" for part in parts)
    yield Note(
        text=f"Validation turned {quantity(away, 'image')} away ({numbers}) and kept {counts['kept']:,}. Why: {rules}."
    )
    every = ([one["path"], one["class"] or "", one["rule"], one["reason"]] for part in parts for one in report[part])
    yield Table(
        header=["image", "class", "rule", "reason"],
        rows=list(islice(every, LISTED)),
        caption=f"The first {LISTED} of {away}; all are in {paths.VALIDATION}." if away > LISTED else "",
        fold="Which images",
    )


MAKERS: dict[str, Maker] = {
    "the data version": version,
    "the images of each class": classes,
    "what validation turned away": turned_away,
}
