"""Make the sections on the plan and on the race: how the minutes were spent, and what each search brought."""

from collections.abc import Iterator, Mapping
from typing import Any

from components.settings.params import Params
from components.settings.variants import VARIANTS
from flows.checkout import paths
from flows.checkout.files import read_json
from flows.report.parts import Maker, Note, Part, Table
from flows.report.reading import Row, chain, group_rows, percent, read_rows

QUESTIONS = {
    "architecture": "a searched network",
    "augmentation": "an augmentation beyond crop and flip",
    "loss": "another loss than cross-entropy",
}


def plan(params: Params) -> Iterator[Part]:
    """Show the plan's reasons and the minutes of each part."""
    record = read_json(paths.PLANNED)
    for sentence in record["sentences"]:
        yield Note(text=sentence)
    yield Table(
        header=["part", "minutes planned", "share"],
        rows=[
            [part, f"{seconds / 60:.2f}", f"{seconds / sum(record['seconds'].values()):.0%}"]
            for part, seconds in record["seconds"].items()
        ],
        caption="By the wall clock on a quiet machine. The baseline is trained outside of these minutes.",
    )
    if record["chosen"]:
        yield Table(
            header=["setting", "chosen"],
            rows=[[key, str(value)] for key, value in sorted(record["chosen"].items())],
            fold="All settings that the plan chose",
        )


def decisions(params: Params) -> Iterator[Part]:
    """Show what the best of everything else gained over plain training, factor by factor."""
    record = read_json(paths.DECIDED)
    yield Table(
        header=["does it bring anything here?", "best of these", "against", "gain on val, points", "p", "ships"],
        rows=[decision_row(one) for one in record["decisions"]],
        caption="Short trainings side by side; the gain in accuracy on val has its 95% interval. What does not beat "
        f"plain training beyond chance (p below {params.race.alpha:g}) does not ship.",
    )
    for variant in VARIANTS:
        yield Note(text=f"`{variant}` trains {recipe_text(record['variants'][variant])}.")


def decision_row(one: Mapping[str, Any]) -> list[str]:
    factor = one["factor"]
    question, plain, taken = QUESTIONS[factor], name_of(factor, one["plain"]), name_of(factor, one["taken"])
    if one["other"] is None:
        return [question, "nothing else was tried", plain, "", "", taken]
    gain, low, high = (100 * one[key] for key in ("gain", "gain_low", "gain_high"))
    return [
        question,
        name_of(factor, one["other"]),
        plain,
        f"{gain:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{one['p']:.2g}",
        taken,
    ]


def name_of(factor: str, choice: str) -> str:
    return chain(choice) if factor == "architecture" else choice


def recipe_text(one: Mapping[str, Any]) -> str:
    start = f", from the race's weights ({one['images']:,} images seen)" if one["begun"] else ""
    return f"{chain(one['architecture'])} with augmentation {one['augmentation']} and loss {one['loss']}{start}"


def rungs(params: Params) -> Iterator[Part]:
    """Show every candidate of every rung."""
    rows = read_rows(paths.RUNGS)
    for factor, own in group_rows(rows, lambda row: row["factor"]).items():
        yield Table(
            header=[factor, "rung", "images seen", "accuracy on val", "log-likelihood", ""],
            rows=[rung_row(row) for row in own],
            fold=f"All candidates of the race's {factor}",
        )


def rung_row(row: Row) -> list[str]:
    stays = "stays" if row["kept"] == "True" else row["fault"] or "leaves"
    accuracy = "" if row["fault"] else percent(float(row["accuracy"]))
    score = "" if row["fault"] else f"{float(row['score']):.4f}"
    return [
        name_of(row["factor"], row["choice"]),
        str(int(row["rung"]) + 1),
        f"{int(row['images']):,}",
        accuracy,
        score,
        stays,
    ]


PLAN_MAKERS: dict[str, Maker] = {"the plan": plan}
RACE_MAKERS: dict[str, Maker] = {"the race's decisions": decisions, "the race's rungs": rungs}
