"""Summarise a retrain: as metrics for MLflow's charts, and as Markdown for MLflow and Prefect."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components.settings.params import Params
from components.settings.variants import SEARCHED
from flows.release import gate
from flows.release.decision_record import Outcome
from flows.release.gate import GateReport
from flows.report import notes
from flows.report.headline import TRAINING, searches_cost
from flows.report.reading import interval, milliseconds, percent, quantity
from flows.report.results import Results, read_results

MODEL = """Image classifiers, made by the assembly line: network, augmentation and loss searched on the data.

Use `models:/{name}@champion`: an ONNX file that takes raw `uint8` images `[n, height, width, channels]` and returns
`logits` and `probabilities`; class names are in its metadata. `@challenger` was judged last, `@previous` was champion
before; `python -m flows.publish rollback` puts it back. Every file that went through the gate is a version, whether it
passed (tag `gate`) or not, with its accuracy and latency (milliseconds) as tags."""
"""The description of a registered model."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of the model that the gate judged."""

    name: str
    version: str
    outcome: Outcome
    report: GateReport
    results: Results
    budget_ms: float
    spent: Mapping[str, float | None]
    """Each search and the baseline's training -> core-minutes, or None if they were not recorded."""


def read(
    params: Params, report: GateReport, version: str, outcome: Outcome, spent: Mapping[str, float | None]
) -> Findings:
    """Combine the results of `evaluate` with the decision."""
    return Findings(
        name=params.publish.model,
        version=version,
        outcome=outcome,
        report=report,
        results=read_results(params),
        budget_ms=params.budget.first,
        spent=spent,
    )


def headline_metrics(found: Findings) -> dict[str, float]:
    """Return the metrics `headline/<name>`, by which retrains are compared."""
    searches = searches_cost(found.spent)
    values = {
        "accuracy": found.results.metrics[SEARCHED]["accuracy"],
        "accuracy_baseline": found.results.baseline,
        "accuracy_champion": champion_accuracy(found),
        "latency_ms": found.results.latency[SEARCHED]["quiet_ms"],
        "latency_budget_ms": found.budget_ms,
        "search_core_minutes": searches,
        "search_trainings": trainings(found),
    }
    return {f"headline/{name}": value for name, value in values.items() if value is not None}


def champion_accuracy(found: Findings) -> float | None:
    """Return the champion's accuracy on the same images, or None if there is no champion."""
    reference = found.report.reference
    return reference.right / reference.images if reference and found.report.champion else None


def trainings(found: Findings) -> float | None:
    """Return the searches' cost as a multiple of one training, or None if either was not recorded."""
    searches, training = searches_cost(found.spent), found.spent[TRAINING]
    return None if searches is None or not training else searches / training


def headline(found: Findings) -> str:
    """Return two lines: the result with what to compare it with; the gate's verdict with reasons, and the cost."""
    accuracy = percent(found.results.metrics[SEARCHED]["accuracy"])
    time = milliseconds(found.results.latency[SEARCHED]["quiet_ms"])
    return "\n\n".join(
        [
            f"**Version {found.version} {found.outcome}: accuracy {accuracy}**{baseline(found)}"
            f"{champion(found)}; latency **{time}** of {milliseconds(found.budget_ms)}.",
            f"{judgement(found.report)} {cost(found)}",
        ]
    )


def baseline(found: Findings) -> str:
    """Return the words on the baseline's accuracy, or an empty text if it was not trained."""
    return "" if found.results.baseline is None else f", baseline {percent(found.results.baseline)}"


def champion(found: Findings) -> str:
    """Return the words on the champion's accuracy, or an empty text if there is no champion."""
    accuracy = champion_accuracy(found)
    return "" if accuracy is None else f", champion {percent(accuracy)}"


def judgement(report: GateReport) -> str:
    """Return a sentence with the gate's verdict and its reasons."""
    if not report.checks:
        return "This file was the champion already: there was nothing to decide."
    failed = [str(check) for check in report.checks if not check.passed]
    if failed:
        return f"The gate **refused** it: {'; '.join(failed)}."
    return f"The gate passed it ({len(report.checks)} checks)."


def cost(found: Findings) -> str:
    searches, multiple = searches_cost(found.spent), trainings(found)
    if searches is None:
        return "What the searches cost was not recorded."
    times = "" if multiple is None else f", {multiple:.1f} times one training"
    return f"The searches cost {searches:.3g} core-minutes{times}."


def run_note(found: Findings, links: Mapping[str, str], stages: Mapping[str, tuple[str, str]]) -> str:
    """Return the text on the decision's run; the essentials come first, because MLflow folds all but the first lines.

    `stages` maps each name to "executed" or "cached" and the address of the run that made its results.
    """
    parts = [headline(found), link_line(links), result_table(found), stage_table(stages), found.report.to_markdown()]
    return "\n\n".join(part for part in parts if part)


def version_note(found: Findings, links: Mapping[str, str]) -> str:
    """Return the text on the model version: the decision, where it was made, and how to use the file.

    Its first line has no markup, because MLflow's lists show it as plain text.
    """
    use = f"Use: `mlflow.onnx.load_model('models:/{found.name}/{found.version}')`, or `python -m flows.classify`."
    return "\n\n".join([headline(found).replace("**", ""), link_line(links), use, found.report.to_markdown()])


def link_line(links: Mapping[str, str]) -> str:
    return " · ".join(f"[{what}]({address})" for what, address in links.items())


def result_table(found: Findings) -> str:
    """Return a table that compares the networks."""
    head = ["| network | accuracy | 95% interval | latency | predicted |", "| --- | --- | --- | --- | --- |"]
    rows = [
        f"| {name} | {percent(own['accuracy'])} | {interval(own)} | {milliseconds(time['quiet_ms'])} | "
        f"{milliseconds(time['predicted_ms'])} |"
        for name, own, time in networks(found)
    ]
    return "\n".join([f"On {quantity(found.results.images, 'test image')}:", "", *head, *rows])


def networks(found: Findings) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, float]]]:
    for name, metrics in found.results.metrics.items():
        yield name, metrics, found.results.latency[name]


def stage_table(stages: Mapping[str, tuple[str, str]]) -> str:
    """Return a table of what each stage decided, or an empty text if no stage is known."""
    head = ["| stage | | found |", "| --- | --- | --- |"]
    rows = [
        f"| [{name}]({address}) | {how} | {notes.describe_findings(name)} |" for name, (how, address) in stages.items()
    ]
    return "\n".join(["What each stage decided:", "", *head, *rows]) if rows else ""


def verdict(report: GateReport) -> str:
    return "passed" if report.passed else "refused"


def tags(report: GateReport) -> dict[str, str]:
    """Return the tags of the model version, which MLflow's list of versions shows."""
    values = {check.name: gate.value_text(check.value) for check in report.checks}
    refused = [check.name for check in report.checks if not check.passed]
    return {
        "accuracy": gate.value_text(report.score.right / report.score.images) if report.score else "unknown",
        "latency_ms": values["latency_quiet_ms"],
        "gate": verdict(report),
        "gate.against": report.against,
        "gate.device": report.device,
        **({"gate.refused": ", ".join(refused)} if refused else {}),
    }
