"""Write the text (Markdown) on a stage's run in MLflow: what the stage does, and what it decided.

It comes from result files alone; all that a search tried is in the report and in the run's artifacts.
"""

import logging
from collections.abc import Callable, Mapping

from flows.checkout import paths
from flows.checkout.files import read_json
from flows.checkout.roster import ROSTER, word_of
from flows.report.reading import Row, chain, interval, milliseconds, percent, quantity, read_rows
from flows.report.searched import NOT_SEARCHED

MAX_NAMED = 3
"""Number of a policy's operations that a sentence names."""
UNREADABLE = (OSError, LookupError, ValueError, TypeError, StopIteration)
"""Exceptions that reading a missing or damaged result file raises; a missing text must not fail the stage."""

LOG = logging.getLogger(__name__)

Find = Callable[[str], str]
"""Returns a sentence or two for a variant, which is empty if the stage has none."""


def note(name: str, *, finished: bool) -> str:
    """Return the text on a run of the stage `<word>` or `<word>@<variant>`, with what it decided first."""
    does = ROSTER[word_of(name)].does
    decided = describe_findings(name) if finished else ""
    return f"**{decided}**\n\n{does}" if decided else does


def describe_findings(name: str) -> str:
    """Say what the stage decided, from its result files; empty, with a warning, if they cannot be read."""
    word, _, variant = name.partition("@")
    if word not in FINDS:
        return ""
    try:
        return FINDS[word](variant)
    except UNREADABLE as error:
        LOG.warning("warning: MLflow is not told what %s found (%s)", name, error)
        return ""


def describe_data(_: str) -> str:
    counts = {split: sum(own.values()) for split, own in read_json(paths.STATISTICS)["counts"].items()}
    classes = read_json(paths.CLASSES)
    splits = ", ".join(f"{split} {counts[split]:,}" for split in ("train", "val", "test"))
    return (
        f"{quantity(sum(counts.values()), 'image')} of {quantity(len(classes['names']), 'class', 'classes')}, "
        f"{classes['size']}×{classes['size']}×{classes['channels']}: {splits}"
    )


def describe_latency(_: str) -> str:
    from components.architecture.latency import LatencyTable  # loads torch, which the stage must configure first

    table = LatencyTable.from_json(read_json(paths.LATENCY_TABLE))
    off = sum(abs(table.line(whole.sum_ms) / whole.entry.ms - 1) for whole in table.wholes) / len(table.wholes)
    return (
        f"{quantity(len(table.entries), 'part')} measured; {quantity(len(table.wholes), 'whole network')} predicted to "
        f"{off:.1%} on average, on {table.device.processor} ({table.device.provider})"
    )


def describe_architecture(_: str) -> str:
    """Describe the network chosen for each budget."""
    return "; ".join(
        f"For {milliseconds(one['latency_ms'])}: `{chain(one['architecture'])}`, predicted "
        f"{milliseconds(one['predicted_latency_ms'])}, {one['parameters']:,} parameters"
        for one in read_json(paths.FOUND_ARCHITECTURE)["budgets"]
    )


def describe_policy(_: str) -> str:
    if not paths.AUGMENTATION_TRUNKS.read_text(encoding="utf-8").strip():
        return NOT_SEARCHED
    shares = read_json(paths.FOUND_AUGMENTATION)["operations"]
    most = sorted(shares, key=lambda one: -float(one["share"]))[:MAX_NAMED]
    named = ", ".join(f"{one['operation']} {one['share']:.1%}" for one in most)
    last = describe_rewards(read_rows(paths.AUGMENTATION_TRUNKS))
    return f"Most drawn of {len(shares)} operations: {named}. {last}"


def describe_loss(_: str) -> str:
    if not paths.LOSS_TRUNKS.read_text(encoding="utf-8").strip():
        return NOT_SEARCHED
    rows = read_rows(paths.LOSS_TRUNKS)
    theta = [float(value) for key, value in rows[-1].items() if key.startswith("theta_")]
    away = sum(value**2 for value in theta) ** 0.5
    return f"{away:.3g} away from cross-entropy. {describe_rewards(rows)}"


def describe_rewards(rows: list[Row]) -> str:
    """Describe the best reward of the last trunk, and the model's score after it."""
    last = rows[-1]
    best = next(row for row in reversed(rows) if row["best"] == "True")
    return (
        f"Trunk {last['trunk']}: best reward {float(best['reward']):.4g} ({best['copy']}), "
        f"score on val {float(last['broadcast_score']):.4g}"
    )


def describe_plan(_: str) -> str:
    record = read_json(paths.PLANNED)
    return " ".join(record["sentences"])


def describe_race(_: str) -> str:
    """Say what of every factor ships, and what the best of the others gained."""
    texts = []
    for one in read_json(paths.DECIDED)["decisions"]:
        taken = chain(one["taken"]) if one["factor"] == "architecture" else one["taken"]
        lead = "" if one["gain"] is None else f" (the best other: {100 * one['gain']:+.2f} points, p {one['p']:.2g})"
        texts.append(f"{one['factor']} {taken}{lead}")
    return "; ".join(texts)


def describe_training(variant: str) -> str:
    rows = read_rows(paths.TRAINED / variant / paths.CURVE)
    size = (paths.TRAINED / variant / paths.SHIPPED).stat().st_size
    return f"Loss {float(rows[-1]['loss']):.4g} after {quantity(len(rows), 'epoch')}; the file has {size:,} bytes"


def describe_evaluation(variant: str) -> str:
    own, time = (read_json(paths.of_variant(path, variant)) for path in (paths.METRICS, paths.MEASURED))
    limit = f", limit {milliseconds(time['limit_ms'])}"
    return f"{percent(own['accuracy'])} ({interval(own)}), {milliseconds(time['quiet_ms'])}{limit}"


FINDS: Mapping[str, Find] = {  # a stage that is missing here is described only by what it does
    "plan": describe_plan,
    "prepare": describe_data,
    "latency": describe_latency,
    "architecture": describe_architecture,
    "augmentation": describe_policy,
    "loss": describe_loss,
    "race": describe_race,
    "train": describe_training,
    "evaluate": describe_evaluation,
}
