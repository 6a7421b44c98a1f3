"""Make the section on the searched network's classes and most confident mistakes in the test split."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from jaxtyping import Int64
from sklearn.metrics import confusion_matrix

from components.data.store import open_split, read_classes
from components.settings.params import Params
from components.settings.variants import BASELINE
from flows.checkout import paths
from flows.report import figures
from flows.report.images import picture
from flows.report.parts import Figure, Maker, Note, Part, Picture, Pictures, Table
from flows.report.reading import Row, fold_text, number, percent, quantity, read_rows

MISTAKES = 20
CONFUSIONS = 10


def per_class(params: Params) -> Iterator[Part]:
    own = sorted(read_rows(paths.PER_CLASS), key=lambda row: float(row["recall"] or "nan"))
    others = read_rows(paths.of_variant(paths.PER_CLASS, BASELINE)) if BASELINE in params.train.variants else []
    baseline = {row["name"]: share(row["recall"]) for row in others}
    worst = own[0]
    table = [
        [
            row["name"],
            row["images"],
            share(row["recall"]),
            share(row["precision"]),
            baseline.get(row["name"], "not trained"),
        ]
        for row in own
    ]
    yield Table(
        header=["class", "images", "recall", "precision", "recall of the baseline"],
        rows=table,
        caption=f"The worst first: {worst['name']}, of whose images {share(worst['recall'])} are recognised.",
        fold=fold_text(len(own)),
    )


def share(text: str) -> str:
    value = number(text)
    return "none" if value is None or np.isnan(value) else percent(value)


def confusion(params: Params) -> Iterator[Part]:
    names = read_classes(paths.CLASSES).names
    matrix = counts(read_rows(paths.PREDICTIONS), names)
    wrong = int(matrix.sum() - np.trace(matrix))
    yield Figure(
        svg=figures.confusion(matrix.astype(float), names),
        label=f"confusion of {quantity(len(names), 'class', 'classes')}: {quantity(wrong, 'mistake')}",
        caption=f"{quantity(wrong, 'mistake')} in {quantity(int(matrix.sum()), 'test image')}.",
    )
    common = most_common(matrix, names)
    if common:
        yield Table(header=["actual", "predicted", "images"], rows=common, fold="The most frequent confusions")


def counts(rows: Sequence[Row], names: Sequence[str]) -> Int64[np.ndarray, "k k"]:
    actual, predicted = ([row[column] for row in rows] for column in ("actual", "predicted"))
    matrix: Int64[np.ndarray, "k k"] = confusion_matrix(actual, predicted, labels=list(names))
    return matrix


def most_common(matrix: Int64[np.ndarray, "k k"], names: Sequence[str]) -> list[list[str]]:
    off = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-off, axis=None, kind="stable")[:CONFUSIONS]
    found = (np.unravel_index(place, off.shape) for place in order)
    return [[names[row], names[column], str(off[row, column])] for row, column in found if off[row, column]]


def mistakes(params: Params) -> Iterator[Part]:
    rows = read_rows(paths.PREDICTIONS)
    if "confidence" not in rows[0]:
        yield Note(text="Confidences were not recorded; `dvc repro evaluate` records them.")
        return
    wrong = [(place, row) for place, row in enumerate(rows) if row["predicted"] != row["actual"]]
    wrong.sort(key=lambda one: -float(one[1]["confidence"]))
    if not wrong:
        yield Note(text="There is no mistake to show.")
        return
    yield Pictures(
        rows=[list(islice(mistake_pictures(wrong), MISTAKES))],
        caption=f"The {min(MISTAKES, len(wrong))} most confident of {quantity(len(wrong), 'mistake')}: what the "
        "network said, how sure it was, and the label. Wrong labels are often among them.",
    )


def mistake_pictures(wrong: Sequence[tuple[int, Row]]) -> Iterator[Picture]:
    images = open_split(paths.TEST).images
    for place, row in wrong:
        answer, actual, sure = row["predicted"], row["actual"], float(row["confidence"])
        yield picture(images[place], f"{answer} instead of {actual}", f"says {answer} ({sure:.0%}), is {actual}")


MAKERS: dict[str, Maker] = {
    "the classes": per_class,
    "the confusions": confusion,
    "the mistakes": mistakes,
}
