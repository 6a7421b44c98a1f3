"""Make the report's first section: what was found, whether to trust it, and what to do next."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from components.settings.params import Params
from components.settings.variants import BASELINE, SEARCHED, VARIANTS
from components.shipping.comparison import Paired, mcnemar, pair
from components.shipping.evaluation import wilson_interval
from flows.checkout import files, paths, pipeline
from flows.checkout.roster import MEASURES, SEARCHES
from flows.release import gate, registry
from flows.release.decision_record import decision_on
from flows.report import figures
from flows.report.lineage import Workspace, trace
from flows.report.parts import Fact, Facts, Figure, Maker, Note, Part, Table
from flows.report.reading import interval, milliseconds, percent, quantity, read_rows
from flows.report.results import read_results
from flows.tracking import connection, models, runs

SEARCHING = tuple(word for word in SEARCHES if word not in MEASURES)
"""The stages whose cost is the searches'; the plan measures, and trains nothing that ships."""
TRAINING = f"train@{BASELINE}"
"""The stage whose cost is that of a training without any search."""
Scores = Mapping[str, float]
INTERVAL = ("accuracy", "accuracy_low", "accuracy_high")
CHANCE = 0.05
"""A difference with a p-value below this is called more than chance."""
REMEDIES = {
    "accuracy": "look at the mistakes below; more epochs, more trunks or more images may help",
    "chance_p": "the model learnt nothing: look at the training's curves, and at whether the labels are right",
    "mcnemar_p": "look at the mistakes below; more epochs, more trunks or more images may help",
    "loss_bound": "the test split may be too small to show that nothing is lost: add test images, or raise gate.margin",
    "class_p": "look at that class in the table below: its images may be wrongly labelled, or unlike those before",
    "latency_quiet_ms": "raise architecture.margin, or measure anew on a quiet machine: `python -m flows.publish`",
    "latency_p99_ms": "measure anew on a quiet machine: `python -m flows.publish`; or raise gate.p99",
    "file_bytes": "raise architecture.max_file_bytes, or offer cheaper blocks",
    "parity": "torch and ONNX Runtime disagree: report it, this model must not ship",
    "quantisation": "raise export.calibration_images, or ship the float file (export.quantize: none)",
    "registry_md5": "the registry gave back another file: look at its storage",
    "registry_logits": "the registry gave back another model: look at its storage",
    "rolled_back": "somebody took this very file back: delete its version's tag rollback.at to have it judged again",
}
"""Check of the gate -> what to do if the model fails it."""


def key_numbers(params: Params) -> Iterator[Part]:
    results = read_results(params)
    searched, time, budget = results.metrics[SEARCHED], results.latency[SEARCHED], params.budget.first
    other = results.latency.get(BASELINE)
    known = "" if results.baseline is None else f"; baseline {percent(results.baseline)}"
    slow = "" if other is None else f"; baseline {milliseconds(other['quiet_ms'])}"
    spent = costs()
    yield Facts(
        facts=[
            Fact(
                name="accuracy",
                value=percent(searched["accuracy"]),
                beside=f"95% interval {interval(searched)}{known}",
            ),
            Fact(
                name="latency",
                value=milliseconds(time["quiet_ms"]),
                beside=f"budget {milliseconds(budget)}, predicted {milliseconds(time['predicted_ms'])}{slow}"
                f"; of all runs, disturbed ones included, p50 "
                f"{milliseconds(time['p50_ms'])} and p99 {milliseconds(time['p99_ms'])}",
            ),
            searches_fact(spent),
            verdict_fact(own_decision()),
        ]
    )
    yield from cost_of_stages(spent)


def doubts(params: Params) -> Iterator[Part]:
    """Warn if the results may come from different runs."""
    differing = list(dict.fromkeys(one.subject for one in trace(Workspace()).all_findings() if one.verdict != "ok"))
    if differing:
        which = (
            f"{differing[0]} differs" if len(differing) == 1 else f"{differing[0]} and {len(differing) - 1} more differ"
        )
        yield Note(
            text=f"Read these numbers with care, they may be of different runs or of other code: {which} from what "
            "dvc.lock names (see Lineage). `dvc repro` brings them together.",
            loud=True,
        )


def own_decision() -> dict[str, Any] | None:
    """Return the gate's decision on the model in this folder, or None if there is none."""
    return decision_on(files.md5_of(paths.MODEL.read_bytes()))


def verdict_fact(decision: Mapping[str, Any] | None) -> Fact:
    if decision is None:
        return Fact(name="gate", value="not judged", beside="`python -m flows.publish` judges it")
    passed = sum(check["passed"] for check in decision["checks"])
    found = f", {passed} of {len(decision['checks'])} checks passed" if decision["checks"] else ""
    return Fact(name="gate", value=decision["outcome"], beside=f"version {decision['version']}{found}")


# --- accuracy


def accuracy(params: Params) -> Iterator[Part]:
    """Show the accuracies with their intervals, and whether the searches' gain may be chance."""
    results, decision = read_results(params), own_decision()
    champion, note = champion_of(decision)
    every = {**results.metrics, **champion}
    found = compare_answers() if BASELINE in results.metrics else None
    if found and found.lost > found.won and mcnemar(found) < CHANCE:
        yield Note(text="The searches did not pay on these data: the baseline is better, beyond chance.", loud=True)
    yield Figure(
        svg=figures.intervals({name: tuple(scores[key] for key in INTERVAL) for name, scores in every.items()}),
        label="; ".join(f"{name} {percent(scores['accuracy'])}" for name, scores in every.items()),
        caption=f"{gain(found) if found else 'No baseline was trained.'} {note}",
    )
    yield Table(
        header=["network", "accuracy", "95% interval"],
        rows=[[name, percent(scores["accuracy"]), interval(scores)] for name, scores in every.items()],
        caption=f"On {quantity(results.images, 'test image')}.",
    )


def champion_of(decision: Mapping[str, Any] | None) -> tuple[dict[str, Scores], str]:
    """Return the scores of the champion that the model was compared with, and a sentence about it."""
    if decision is None:
        return {}, "The gate has not judged this model, so it was not compared with a champion."
    if not decision["checks"]:
        return {}, "This model is the champion itself."
    if decision["champion"] is None:
        return {}, "There was no champion before this model."
    if decision.get("reference") is None:
        return {}, "How accurate the champion is on these images was not recorded."
    right, images = decision["reference"]["right"], decision["reference"]["images"]
    scores = dict(zip(INTERVAL, (right / images, *wilson_interval(right, images)), strict=True))
    return {f"champion, version {decision['champion']}": scores}, f"Compared with {decision['against']}."


def compare_answers() -> Paired:
    """Compare the searched network with the baseline, image by image."""
    rows = (read_rows(paths.of_variant(paths.PREDICTIONS, name)) for name in VARIANTS)
    searched, baseline = (np.array([row["predicted"] == row["actual"] for row in own]) for own in rows)
    return pair(searched, baseline)


def gain(found: Paired) -> str:
    """Say whether the difference may be chance, by McNemar's exact one-sided test."""
    better = found.won >= found.lost
    p = mcnemar(Paired(images=found.images, lost=found.won, won=found.lost) if better else found)
    return (
        f"The searched network alone is right on {quantity(found.won, 'image')}, the baseline alone on "
        f"{found.lost:,}: {'better' if better else 'worse'} by {percent(abs(found.won - found.lost) / found.images)}, "
        f"{'more than chance' if p < CHANCE else 'within what chance gives'} (p = {p:.2g})."
    )


# --- cost


def costs() -> dict[str, float | None]:
    """Return stage -> core-minutes, with None if MLflow has no record or cannot be reached."""
    found: dict[str, float | None] = dict.fromkeys((*SEARCHING, TRAINING))
    with suppress(*connection.ERRORS):
        for name in found:
            lock = pipeline.locked_stage(name)
            found[name] = runs.core_minutes(pipeline.stage_key(lock)) if lock else None
    return found


def searches_cost(spent: Mapping[str, float | None]) -> float | None:
    """Return the core-minutes of all searches, or None if one was not recorded."""
    each = [spent[name] for name in SEARCHING]
    return None if None in each else sum(minutes or 0.0 for minutes in each)


def searches_fact(spent: Mapping[str, float | None]) -> Fact:
    total, training = searches_cost(spent), spent[TRAINING]
    if total is None:
        return Fact(name="core-minutes of search", value="not recorded", beside="or MLflow cannot be asked")
    beside = f"{total / training:.1f} times one training ({training:.3g})" if training else "one training: not recorded"
    return Fact(name="core-minutes of search", value=f"{total:.3g}", beside=beside)


def cost_of_stages(spent: Mapping[str, float | None]) -> Iterator[Table]:
    """Yield a table of the stages' costs, or nothing if none is known."""
    missing = [name for name, minutes in spent.items() if minutes is None]
    if len(missing) == len(spent):
        return
    training = spent[TRAINING]
    rows = [
        [name, f"{minutes:.2f}", f"{minutes / training:.1f}" if training else "not known"]
        for name, minutes in spent.items()
        if minutes is not None
    ]
    left_out = f" Not recorded: {', '.join(missing)}." if missing else ""
    yield Table(
        header=["stage", "core-minutes", "trainings"],
        rows=rows,
        caption="CPU time of the stage and its workers when it last ran, without a GPU's or a cluster's. "
        f"One training is the baseline's.{left_out}",
        fold="What each search cost",
    )


# --- the gate


def verdict(params: Params) -> Iterator[Part]:
    """Say what the gate decided, why, and what to do."""
    decision = own_decision()
    if decision is None:
        yield Note(
            text="The gate has not judged this model: `python -m flows.publish` does, and publishes it.", loud=True
        )
        return
    failed = [check for check in decision["checks"] if not check["passed"]]
    name = f"{decision['model']} version {decision['version']}"
    if failed:
        reasons = "; ".join(reason(check) for check in failed)
        yield Note(text=f"{name} is not in service, for the gate refused it: {reasons}.", loud=True)
        for check in failed:
            yield Note(text=f"{check['name']}: {REMEDIES.get(check['name'], 'see docs/production.md')}.")
    elif instead := in_service_instead(decision):
        yield Note(text=f"{name} passed the gate, but is not in service: {instead}.", loud=True)
    else:
        yield Note(text=f"{name} is in service: models:/{decision['model']}@champion. {way_back(decision)}")


def in_service_instead(decision: Mapping[str, Any]) -> str:
    """Say which other version is in service; empty if it is this one or MLflow cannot be reached."""
    name, version = decision["model"], decision["version"]
    with suppress(*connection.ERRORS):
        serving = models.alias_version(name, registry.CHAMPION)
        if serving in (None, version):
            return ""
        tags = models.version_tags(name, version)
        when = tags.get(registry.WITHDRAWN)
        why = f", since {tags.get('rollback.by')} rolled version {version} back ({when})" if when else ""
        return f"version {serving} is{why}"
    return ""


def checks(params: Params) -> Iterator[Part]:
    decision = own_decision()
    if decision is None:
        return
    if not decision["checks"]:
        yield Note(
            text="It was the champion already, so there was nothing to decide; its version's page in MLflow has the "
            "checks that it passed before."
        )
        return
    yield Table(
        header=["check of the gate", "value", "allowed", "verdict", ""],
        rows=[check_row(check) for check in decision["checks"]],
        caption=f"Compared with {decision['against']}. Latency measured on {decision['device']}.",
    )


def way_back(decision: Mapping[str, Any]) -> str:
    if not decision["checks"]:
        return "It was before this run, too."
    if decision["champion"] is None:
        return "It is the first, so there is none to go back to."
    return f"`python -m flows.publish rollback` puts version {decision['champion']} back."


def reason(check: Mapping[str, Any]) -> str:
    return f"{check['name']} is {gate.short_text(check['value'])}, allowed is {allowed(check)}"


def allowed(check: Mapping[str, Any]) -> str:
    return f"{check['rule']} {gate.short_text(check['threshold'])}"


def check_row(check: Mapping[str, Any]) -> Sequence[str]:
    judged = "passed" if check["passed"] else "REFUSED"
    return [check["name"], gate.short_text(check["value"]), allowed(check), judged, check["detail"]]


MAKERS: dict[str, Maker] = {
    "the key numbers": key_numbers,
    "the gate's verdict": verdict,
    "whether the results belong together": doubts,
    "the accuracies": accuracy,
    "the gate's checks": checks,
}
