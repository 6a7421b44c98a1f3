"""Make the parts that the sections of the two online searches share."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from components.settings.online import Online
from components.settings.params import Params
from flows.checkout import versions
from flows.report import figures
from flows.report.figures import Rewards
from flows.report.parts import Figure, Note, Part
from flows.report.reading import Row, number, quantity

NOT_SEARCHED = "Nothing was searched here."


def not_searched(params: Params) -> set[str]:
    """Return the searches that the settings or the plan leave out."""
    runs = {
        "architecture": params.architecture.strategy != "largest",
        "augmentation": params.augmentation.online.trunks > 0,
        "loss": params.loss.online.trunks > 0,
    }
    return {word for word, run in runs.items() if not run}


def frozen_note(stage: str) -> Iterator[Note]:
    """Note that the stage did not search this time, if it is frozen."""
    pipeline = versions.PIPELINE
    stages: dict[str, Any] = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"] if pipeline.exists() else {}
    if stages.get(stage, {}).get("frozen"):
        yield Note(text="This search was not run anew: its stage is frozen, and the last version's result is used.")


def how(online: Online) -> str:
    """Describe the engine's settings in a sentence."""
    copies = "" if online.one_model else f" {quantity(online.copies, 'copy', 'copies')} of the network,"
    return (
        f"{quantity(online.trunks, 'trunk')} of {quantity(online.images, 'image')},{copies} reward {online.reward}, "
        f"controller {online.controller}."
    )


def control(online: Online) -> Note:
    """Say whether this search is a control; a control needs a run of its own, as a run has only one controller."""
    if online.controller == "null":
        return Note(text="This is a control (controller null): nothing is learned, the rewards are what chance gives.")
    return Note(text="No control was run beside it: the line runs one controller; `controller: null` would be one.")


def rewards(rows: Sequence[Row], online: Online) -> Iterator[Part]:
    """Show every reward of every trunk, with the best marked, and the model's score after each trunk."""
    known = [row for row in rows if number(row["reward"]) is not None and row["reward"] != "nan"]
    every = Rewards(
        trunks=[int(row["trunk"]) for row in known],
        rewards=[float(row["reward"]) for row in known],
        best=[row["best"] == "True" for row in known],
    )
    progress = {int(row["trunk"]): float(row["broadcast_score"]) for row in rows}
    best = [row for row in known if row["best"] == "True"][-1]
    yield Figure(
        svg=figures.rewards_by_trunk(every, progress, f"{online.metric.replace('_', ' ')} on val"),
        label=f"{quantity(len(known), 'reward')} in {quantity(len(progress), 'trunk')}",
        caption=f"Left: every reward of every trunk. In the last, the best was {best['copy']} with "
        f"{float(best['reward']):.4g}. Right: the model after each trunk.",
    )
    faults = [row for row in rows if row["fault"]]
    if faults:
        first = faults[0]
        yield Note(
            text=f"{quantity(len(faults), 'reward')} of {len(rows):,} lost; the first in trunk {first['trunk']}, "
            f"{first['copy']}: {first['fault']}."
        )
