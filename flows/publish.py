"""Judge, publish and roll back a model: `python -m flows.publish [rollback]`.

The gate (decided in flows/release/gate.py) measures the exact file that would ship: its answers against the champion's
on the same test images, and its latency on this machine, since a recorded one may come from another machine or from
before a slower library. The parity with torch is what `evaluate` found for the float file; a quantised file must be as
accurate as its float file, up to the margin. In any case the model is registered once (by its md5) and becomes
`challenger`; `champion` moves only if the gate passes and the registry has returned the same model through the alias.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("publish")  # before the slow imports, so that --help answers at once

import getpass
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict

from components.settings.params import Params
from components.settings.variants import SEARCHED
from flows.checkout import commits, files, paths, pipeline, versions
from flows.checkout.settings import load_params
from flows.release import candidate, decision_record, judge, registry
from flows.release.decision_record import Published
from flows.release.gate import GateReport
from flows.release.judge import METRICS, MODEL
from flows.release.registry import CHALLENGER, CHAMPION, RegistryError
from flows.report import charts, findings, headline, notes, page
from flows.report.findings import Findings
from flows.report.results import Figures, read_results
from flows.runtime.exits import ends_in_a_sentence, refuse
from flows.tracking import connection, models, runs

ARCHIVED = (paths.PARAMS, versions.PIPELINE, versions.LOCK, *paths.DATA.values())
"""Files that are stored with the decision's run, so that an audit finds them after the checkout has changed."""

PREFECT = "prefect.flow_run_url"
"""Tag of a retrain's run with its page in Prefect, if Prefect's server outlives the run."""

LOG = logging.getLogger(__name__)


def publish(params: Params, parent_run: str | None, report: GateReport) -> Published:
    """Register the judged model once, as challenger, and as champion if it passed the gate.

    The decision is kept with the MLflow run `parent_run`, or with a new run if that is None. Raises ValueError if the
    file is not the one that was judged, RegistryError if MLflow fails.
    """
    published = register(params, parent_run, report)
    try:
        decision_record.keep(published.report, params.publish.model, published.version, published.outcome)
    except OSError as error:
        LOG.warning("warning: the decision is in MLflow alone, not in results (%s); the model is registered", error)
    try:
        describe(params, published)
    except (*connection.ERRORS, *notes.UNREADABLE) as error:
        LOG.warning("warning: MLflow is not told what was found (%s); the model is registered", error)
    return published


def register(params: Params, parent_run: str | None, report: GateReport) -> Published:
    """Register the model in MLflow, and move the aliases."""
    model, name = judge.read_result(MODEL), params.publish.model
    if files.md5_of(model) != report.md5:
        raise ValueError(f"{MODEL} changed after the gate judged it; run the gate again")
    if paths.PARAMS.exists() and load_params() != params:  # the file is archived as the model's settings
        raise ValueError(f"{paths.PARAMS} changed while the line ran; run it again")
    proposed = candidate.make_candidate(model, params)
    with registry.registry_errors(), registry.decision_lock(), decision_run(parent_run, params) as run:
        runs.archive(run, ARCHIVED)
        if report.champion and not report.checks:
            record(run, name, report.champion, report)
            return Published(version=report.champion, outcome="already champion", report=report, run=run)
        maker = runs.find_run(f"dvc.out.{MODEL.as_posix()}", report.md5) or run
        number = models.register_model(name, proposed, maker)
        models.move_alias(name, CHALLENGER, number)
        report = report.with_checks(*candidate.check_alias(model, params))
        models.retag_version(name, number, findings.tags(report) | origin(run), "gate")
        record(run, name, number, report)
        if not report.passed:
            return Published(version=number, outcome="refused", report=report, run=run)
        if models.alias_version(name, CHAMPION) != report.champion:
            raise RegistryError("the champion changed while its challenger was judged; run the gate again")
        registry.promote(name, number, report.champion)
        return Published(version=number, outcome="published", report=report, run=run)


def record(run: str, name: str, number: str, report: GateReport) -> None:
    """Record the decision on its run."""
    runs.log_json(run, report.to_json(), "gate.json")
    runs.tag_run(run, {"model": name, "model.version": number, "gate": findings.verdict(report)})


def describe(params: Params, published: Published) -> None:
    """Add metrics and texts for readers to the decision's run, the model version and the registered model."""
    found = findings_of(params, published)
    runs.log_metrics(published.run, findings.headline_metrics(found))
    runs.describe(published.run, run_note(found, published.run))
    models.describe_model(found.name, findings.MODEL.format(name=found.name))
    if found.report.checks:
        models.describe_version(found.name, found.version, version_note(found, published.run))


def findings_of(params: Params, published: Published) -> Findings:
    return findings.read(params, published.report, published.version, published.outcome, headline.costs())


def run_note(found: Findings, run: str, linked: Callable[[str], str] = str) -> str:
    """Return the text on the decision's run.

    `linked` turns a page of MLflow's UI into its address; inside the UI the page itself is the address.
    """
    links = {
        "Report": linked(runs.run_page(run, paths.REPORT.name)),
        f"{found.name} version {found.version}": linked(models.version_page(found.name, found.version)),
    }
    if address := runs.run_tags(run).get(PREFECT):
        links["Prefect"] = address
    stages = {name: (how, linked(runs.run_page(made))) for name, (how, made) in runs.linked_stages(run).items()}
    return findings.run_note(found, links, stages)


def version_note(found: Findings, run: str) -> str:
    """Return the text on the model version, with a link to the run that judged it."""
    links = {"The run that judged it": runs.run_page(run), "Report": runs.run_page(run, paths.REPORT.name)}
    return findings.version_note(found, links)


@contextmanager
def decision_run(parent_run: str | None, params: Params) -> Iterator[str]:
    """Yield the given run, or a new one for the length of the block. Raises RegistryError if MLflow creates none."""
    if parent_run is not None:
        yield parent_run
        return
    with runs.parent_run("publish", commits.code_tags()) as run:
        if run is None:
            raise RegistryError("the MLflow registry cannot be used; nothing was promoted")
        runs.log_settings(run, asdict(params) | {"unstated": sorted(params.unstated)})
        yield run


def origin(run: str) -> dict[str, str]:
    """Return the tags where an audit begins: the code, the decision's run, and the sha256 of each file stored there."""
    archived = {f"archived.{file.as_posix()}": files.digest(file) for file in ARCHIVED if file.exists()}
    return commits.code_tags() | {"gate.run": run} | archived


def keep_report(params: Params, run: str) -> None:
    """Write results/report.html and store it with the decision's run; the model stays published if that fails."""
    try:
        made = page.make(params)
        runs.archive(run, [page.write(params, made)])
        keep_charts(made, run)
    except OSError as error:
        LOG.warning("warning: %s was not written (%s); `python -m flows.report` tries again", paths.REPORT, error)


def keep_charts(made: page.Made, run: str) -> None:
    """Store every chart of the report with the run of its stage, or with the decision's if it has none."""
    for chart in charts.charts(made):
        with connection.failure_as_warning(chart.name):
            lock = pipeline.locked_stage(chart.stage) if chart.stage else None
            maker = runs.find_stage_run(pipeline.stage_key(lock)) if lock else run
            if maker is not None:
                runs.log_bytes(maker, chart.content, chart.name)


def summary(params: Params, published: Published) -> str:
    """Return the summary that is printed at the end of a run, with where to look further."""
    judge.read_result(METRICS)
    results = read_results(params)
    searched, measured = results.metrics[SEARCHED], results.latency[SEARCHED]
    baseline = "" if results.baseline is None else f", baseline {results.baseline:.2%}"
    name, report = params.publish.model, published.report
    alias = CHALLENGER if published.outcome == "refused" else CHAMPION
    lines = [
        f"model     {name} version {published.version} {published.outcome}: models:/{name}@{alias}",
        f"accuracy  searched {searched['accuracy']:.2%} ({searched['accuracy_low']:.2%} to "
        f"{searched['accuracy_high']:.2%}){baseline}, on {results.images} test images",
        f"latency   measured {measured['quiet_ms']:.3f} ms, predicted {measured['predicted_ms']:.3f} ms, "
        f"budget {params.budget.first:.3f} ms",
        *quantisation_lines(searched, measured),
        *[f"gate      {'passed' if check.passed else 'REFUSED'}: {check}" for check in report.checks],
        f"gate      compared with {report.against}",
        f"look      {paths.REPORT}; mlflow/serve, then {run_address(published.run)}",
    ]
    return "\n".join(lines)


def run_address(run: str) -> str:
    """Return the run's address, or the server's if MLflow no longer answers."""
    with suppress(*connection.ERRORS):
        return runs.address_of(runs.run_page(run))
    return runs.address_of("")


def quantisation_lines(searched: Figures, measured: Figures) -> list[str]:
    """Return a line with the gains and losses of a quantised file; none for a float file."""
    if "agreement" not in searched:
        return []
    return [
        f"int8      float accuracy {searched['float_accuracy']:.2%}, float latency {measured['float_quiet_ms']:.3f} "
        f"ms, the same class on {searched['agreement']:.2%} of the images"
    ]


@ends_in_a_sentence
def main(arguments: Sequence[str] | None = None) -> int:
    chosen = commands.parse("publish", arguments)
    params = load_params()
    if chosen.command == "rollback":
        return go_back(params, chosen.by or user_name(), chosen.reason)
    return go_forward(params)


def go_forward(params: Params) -> int:
    published = publish(params, None, judge.judge(params))
    keep_report(params, published.run)
    print(summary(params, published))
    return 3 if published.outcome == "refused" else 0


def go_back(params: Params, who: str, why: str) -> int:
    name = params.publish.model
    try:
        done = registry.roll_back(name, who, why)
    except KeyboardInterrupt:
        return refuse(
            130,
            f"interrupted; see which version models:/{name}@{CHAMPION} is before you repeat it: done twice, it goes "
            "back two",
        )
    print(f"champion  {name} version {done.restored}, back in service: models:/{name}@{CHAMPION}")
    print(f"withdrawn version {done.withdrawn}, by {who}: {why or 'no reason given'}")
    renew_report(params)
    return 0


def renew_report(params: Params) -> None:
    """Write the report again if there is one, because it names the version in service."""
    if paths.REPORT.exists():
        try:
            page.write(params, page.make(params))
        except (OSError, ValueError) as error:
            LOG.warning("warning: %s still is from before (%s)", paths.REPORT, error)


def user_name() -> str:
    """Return the user's name. Raises ValueError if there is none, as in some containers."""
    try:
        return commits.git("config", "user.name") or getpass.getuser()
    except (KeyError, OSError):
        raise ValueError("nobody knows who you are here; say it with --by") from None


if __name__ == "__main__":
    commands.run(main)
