"""The line from end to end on digits, with a tiny budget: two entry points, one result; nothing done twice or lost.

The tests share two clones: one ran `dvc repro`, the other the Prefect flow. Timings are recorded inputs: the flow's
clone gets DVC's run cache of the three stages that measure time, and computes everything else itself.
"""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Page, expect

from components.architecture.budget import block_extras
from components.architecture.latency import LatencyTable
from components.architecture.space import space_of
from components.data.store import open_split, read_classes
from components.shipping.evaluation import onnx_logits
from components.shipping.export import read_metadata
from flows import audit, publish
from flows.checkout.settings import load_params
from flows.lineage import reproduce
from flows.report import __main__ as report
from flows.runtime.observer import Silent
from flows.stages import architecture, evaluate, train
from flows.tracking import models, runs
from tests.benchmarks import kills
from tests.browser import browser_page, followed, keep
from tests.clones import ROOT, environment, run
from tests.damage import flipped, replaced
from tests.flows.receiver import receiver
from tests.line_cache import SEARCHED, tiny_line, without_test_split
from tests.servers import free_port, prefect_server, running, wait_until_healthy
from tests.stages import run as run_stage

pytestmark = pytest.mark.timeout(900)  # a fixture's time counts for the first test that uses it

MEASURE_TIME = ("plan", "latency", "evaluate@searched", "evaluate@baseline")
COMPUTED = ("prepare", *SEARCHED)


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` alone ran every stage: searches and trainings while the test split was away."""
    return tiny_line(tmp_path_factory)


@pytest.fixture(scope="module")
def by_flow(by_dvc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the flow alone ran every stage; only measured times come from the other clone."""
    clone = tmp_path_factory.mktemp("flow")
    subprocess.run(["git", "clone", "-q", by_dvc, clone], check=True)
    carry_measurements(by_dvc, clone)
    with receiver() as (address, arrived):
        done = run(clone, "-m", "flows.retrain", ASSEMBLY_LINE_WEBHOOK=address)
    (clone / "flow.log").write_text(done.stdout + done.stderr)
    (clone / "notified.json").write_text(json.dumps(arrived))
    return clone


def carry_measurements(source: Path, target: Path, carried: Sequence[str] = MEASURE_TIME) -> None:
    """Copy the run-cache entries of the stages that measure time, or of others, and the bytes they name."""
    for entry in (source / ".dvc" / "cache" / "runs").glob("*/*/*"):
        lock = yaml.safe_load(entry.read_text())
        if lock["cmd"].partition("flows.stage ")[2].replace(" ", "@") in carried:
            copy_into(source, target, entry)
            for out in lock["outs"]:
                for one in objects_of(source, out["md5"]):
                    copy_into(source, target, one)


def objects_of(clone: Path, md5: str) -> list[Path]:
    """What DVC's cache holds of an output: a folder's listing, and the files that it names."""
    place = clone / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    if not md5.endswith(".dir"):
        return [place]
    return [place, *(path for entry in json.loads(place.read_text()) for path in objects_of(clone, entry["md5"]))]


def copy_into(source: Path, target: Path, file: Path) -> None:
    place = target / file.relative_to(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, place)


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def parent_of(clone: Path) -> tuple[MlflowClient, Run]:
    client = MlflowClient(f"sqlite:///{clone}/mlflow/store/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, filter_string="attributes.run_name = 'retrain'")
    return client, runs[-1]


def test_dvc_and_the_flow_give_the_same_lock_byte_for_byte(by_dvc: Path, by_flow: Path) -> None:
    assert (by_dvc / "dvc.lock").read_bytes() == (by_flow / "dvc.lock").read_bytes()


def test_the_flow_computed_every_stage_that_measures_no_time_itself(by_flow: Path) -> None:
    assert set(stages_run((by_flow / "flow.log").read_text())) == set(COMPUTED)


def test_the_report_of_a_whole_line_leaves_nothing_out_and_is_the_same_when_it_is_written_anew(by_flow: Path) -> None:
    client, parent = parent_of(by_flow)
    kept = Path(client.download_artifacts(parent.info.run_id, "report.html")).read_text()
    assert kept == (by_flow / "results" / "report.html").read_text()
    assert "Not shown" not in kept
    assert "not recorded" not in kept.lower()
    assert "Everything here is what dvc.lock names." in kept
    (by_flow / "results" / "report.html").unlink()
    with contextlib.chdir(by_flow):
        assert report.main([]) == 0
    assert (by_flow / "results" / "report.html").read_text() == kept


def test_what_evaluate_computes_is_the_same_in_both_clones(by_dvc: Path, by_flow: Path) -> None:
    shutil.copytree(by_flow / "results" / "evaluate", by_flow / "kept")
    with contextlib.chdir(by_flow):
        for variant in ("searched", "baseline"):
            run_stage(evaluate, load_params(), Silent(), variant)
    for variant, name in product(("searched", "baseline"), ("metrics.json", "predictions.csv", "per_class.csv")):
        again = (by_flow / "results" / "evaluate" / variant / name).read_bytes()
        assert again == (by_dvc / "results" / "evaluate" / variant / name).read_bytes(), (variant, name)
    shutil.rmtree(by_flow / "results" / "evaluate")
    (by_flow / "kept").rename(by_flow / "results" / "evaluate")


def test_searches_and_training_give_the_same_bytes_without_the_test_split(by_dvc: Path, by_flow: Path) -> None:
    """In one clone they ran without it, in the other with it."""
    assert stages_run(without_test_split(by_dvc).read_text()) == list(SEARCHED)
    without, beside = (yaml.safe_load((clone / "dvc.lock").read_text())["stages"] for clone in (by_dvc, by_flow))
    for stage in SEARCHED:
        assert without[stage]["outs"] == beside[stage]["outs"], stage


def test_repro_a_second_time_runs_nothing(by_dvc: Path, by_flow: Path) -> None:
    for clone in (by_dvc, by_flow):
        before = (clone / "dvc.lock").read_bytes()
        done = run(clone, "-m", "dvc", "repro")
        assert stages_run(done.stdout) == []
        assert "up to date" in done.stdout
        assert (clone / "dvc.lock").read_bytes() == before


def test_every_trunk_reward_of_every_copy_and_every_pool_update_is_in_mlflow(by_flow: Path) -> None:
    client, parent = parent_of(by_flow)
    nested = client.search_runs(
        [parent.info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    by_name = {child.info.run_name: child for child in nested}
    assert set(COMPUTED) <= set(by_name)
    for word in ("augmentation", "loss"):
        with (by_flow / "results" / word / "trunks.csv").open() as file:
            for row in csv.DictReader(file):
                history = client.get_metric_history(by_name[word].info.run_id, f"{word}/rewards/{row['copy']}")
                logged = {metric.step: metric.value for metric in history}
                assert logged[int(row["trunk"])] == pytest.approx(float(row["reward"]), nan_ok=True)
    with (by_flow / "results" / "architecture" / "pool.csv").open() as file:
        stages = {int(row["stage"]) for row in csv.DictReader(file)}
    history = client.get_metric_history(by_name["architecture"].info.run_id, "architecture/pool/potential")
    assert {metric.step for metric in history} == stages


def test_every_run_carries_its_lineage_and_has_ended(by_flow: Path) -> None:
    client, parent = parent_of(by_flow)
    assert parent.info.status == "FINISHED"
    lock = yaml.safe_load((by_flow / "dvc.lock").read_text())["stages"]
    for child in client.search_runs(
        [parent.info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    ):
        tags, stage = child.data.tags, lock[child.info.run_name]
        assert child.info.status == "FINISHED"
        assert len(tags["stage_key"]) == 64
        assert len(tags["git.commit"]) == 40
        assert tags["prefect.flow_run_id"] == parent.data.tags["prefect.flow_run_id"]
        assert {f"dvc.out.{out['path']}" for out in stage["outs"]} <= set(tags)
        assert all(tags[f"dvc.dep.{dep['path']}"] == dep["md5"] for dep in stage["deps"])


def test_the_model_is_registered_as_champion_and_is_the_file_that_was_evaluated(by_flow: Path) -> None:
    client, _ = parent_of(by_flow)
    champion = client.get_model_version_by_alias("tiny-digits", "champion")
    lock = yaml.safe_load((by_flow / "dvc.lock").read_text())["stages"]["train@searched"]["outs"]
    assert champion.tags["md5"] in {out["md5"] for out in lock}


def test_the_webhook_was_told_once_how_the_flow_ended(by_flow: Path) -> None:
    (told,) = json.loads((by_flow / "notified.json").read_text())
    assert (told["state"], told["outcome"], told["model_version"]) == ("Completed", "published", "1")


def test_an_int8_file_ships_and_is_judged_beside_the_float_file_it_was_made_from(by_dvc: Path) -> None:
    results = by_dvc / "results"
    assert json.loads((results / "latency" / "table.json").read_text())["quantize"] == "int8"
    for variant in ("searched", "baseline"):
        shipped = read_metadata((results / "train" / variant / "model.onnx").read_bytes())
        assert shipped["quantize"] == "int8"
        assert "quantize" not in read_metadata((results / "train" / variant / "float.onnx").read_bytes())
        figures = results_of(by_dvc, variant)
        assert figures["parity"] < 1e-3
        assert figures["agreement"] > 0.9
        assert abs(figures["accuracy"] - figures["float_accuracy"]) <= 1 - figures["agreement"] + 1e-9
        assert 0 < figures["float_quiet_ms"] <= figures["float_p99_ms"]


def test_the_parent_run_and_prefect_show_the_decision_and_the_run_links_its_model_and_stages(by_flow: Path) -> None:
    client, parent = parent_of(by_flow)
    shown, tags = parent.data.tags["mlflow.note.content"], parent.data.tags
    assert "#/models/tiny-digits/versions/1" in shown
    runs = [tags["stage." + name.replace("@", ".") + ".run"] for name in COMPUTED]
    assert all(f"/runs/{run_id}?" in shown for run_id in runs)
    kept = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"gate.json", "dvc.lock", "dvc.yaml", "params.yaml", "raw.dvc", "report.html"} <= kept
    database = sqlite3.connect(by_flow / ".prefect-home" / "prefect.db")
    artifacts = database.execute("SELECT data FROM artifact WHERE key = 'gate'").fetchall()
    assert any("latency_quiet_ms" in data for (data,) in artifacts)
    for key, place in (("report", "/artifacts/report.html"), ("mlflow", "?"), ("headline", "/artifacts/report.html")):
        links = database.execute("SELECT data FROM artifact WHERE key = ?", (key,)).fetchall()
        assert any(
            f"http://127.0.0.1:5000/#/experiments/1/runs/{parent.info.run_id}{place}" in data for (data,) in links
        )
    tagged = dict(database.execute("SELECT name, tags FROM task_run"))
    assert set(json.loads(tagged["loss"])) == {"stage", "search", "tiny-digits"}
    (named,) = database.execute("SELECT name FROM flow_run").fetchone()
    assert re.fullmatch(r"tiny-digits \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", named)


# ---------------------------------------------------------------- what a person sees in MLflow, in a browser


@pytest.fixture
def ui(by_flow: Path, tmp_path: Path) -> Iterator[tuple[Page, str]]:
    """A browser, and the address of the server that the clone's own `mlflow/serve` starts; of one test, since others
    look at what still works in the clone."""
    port = free_port()
    with browser_page() as page, running([str(by_flow / "mlflow/serve")], tmp_path, MLFLOW_PORT=str(port)) as log:
        wait_until_healthy(port, "/health", log)
        yield page, f"http://127.0.0.1:{port}"


def page_of(clone: Path, name: str) -> str:
    """A link as the line writes it, without the server."""
    with contextlib.chdir(clone):
        return runs.run_page(run_of(clone, name).info.run_id)


def test_the_retrains_page_shows_headline_verdict_and_links_and_unfolds_every_stage(
    by_flow: Path, ui: tuple[Page, str]
) -> None:
    page, server = ui
    searched = results_of(by_flow, "searched")
    page.goto(f"{server}/{page_of(by_flow, 'retrain')}")
    expect(page.get_by_text(f"Version 1 published: accuracy {searched['accuracy']:.2%}")).to_be_in_viewport()
    expect(page.get_by_text(re.compile(r"^The gate passed it \(\d+ checks\)\. The searches cost "))).to_be_in_viewport()
    expect(page.get_by_role("link", name="tiny-digits version 1")).to_be_in_viewport()
    expect(page.get_by_text("headline/accuracy_baseline")).to_be_visible()
    keep(page, "retrain")
    page.get_by_text("Show more").click()
    for stage in COMPUTED:
        expect(page.get_by_role("cell", name=stage, exact=True)).to_be_visible()
    expect(page.get_by_role("cell", name="registry_logits")).to_be_visible()
    keep(page, "retrain-unfolded")
    report = followed(page, "Report")
    expect(report.frame_locator("iframe").get_by_role("heading", name="What was found")).to_be_visible()
    keep(report, "report")


def test_a_searchs_page_shows_its_charts_under_the_documented_names_and_its_pictures(
    by_flow: Path, ui: tuple[Page, str]
) -> None:
    page, server = ui
    page.goto(f"{server}/{page_of(by_flow, 'retrain')}")
    page.get_by_text("Show more").click()
    page = followed(page, "augmentation")
    own = page.url
    expect(page.get_by_text("Most drawn of 16 operations: ")).to_be_in_viewport()
    page.get_by_role("tab", name="Model metrics").click()
    for shown in ("augmentation/reward", "augmentation/rewards", "augmentation/share"):
        expect(page.get_by_text(shown, exact=True).first).to_be_attached()
    for shown in ("strength", "entropy_bits", "score", "best", "mean"):
        expect(page.get_by_text(shown, exact=True).first).to_be_attached()
    expect(page.locator(".js-plotly-plot .scatterlayer .trace").first).to_be_visible()
    keep(page, "augmentation-metrics")
    page.goto(own.replace("?", "/artifacts/charts/images_under_the_policy.png?"))
    expect(page.get_by_alt_text("charts/images_under_the_policy.png")).to_be_visible()
    keep(page, "augmentation-images")


def test_the_model_versions_page_shows_the_decision_tags_and_the_way_back_to_its_run(
    by_flow: Path, ui: tuple[Page, str]
) -> None:
    page, server = ui
    page.goto(f"{server}/{models.version_page('tiny-digits', '1')}")
    expect(page.get_by_text("Version 1 published: accuracy ")).to_be_in_viewport()
    expect(page.get_by_role("cell", name="latency_quiet_ms")).to_be_visible()
    for tag in ("accuracy", "latency_ms", "gate", "gate.against", "git.commit"):
        expect(page.get_by_role("cell", name=tag, exact=True).first).to_be_attached()
    keep(page, "model-version")
    judged = followed(page, "The run that judged it")
    expect(judged.get_by_role("heading", name="retrain")).to_be_visible()
    assert run_of(by_flow, "retrain").info.run_id in judged.url
    page.goto(f"{server}/#/models/tiny-digits{runs.TRAINING_VIEW}")
    expect(page.get_by_text("models:/tiny-digits@champion")).to_be_visible()
    keep(page, "model")


def test_prefects_page_of_a_retrain_leads_to_its_steps_the_headline_the_report_and_mlflow(
    by_flow: Path, tmp_path: Path
) -> None:
    port = free_port()
    own = f"http://127.0.0.1:{port}"
    _, parent = parent_of(by_flow)
    database = sqlite3.connect(by_flow / ".prefect-home" / "prefect.db")
    (flow_run,) = database.execute("SELECT id FROM flow_run").fetchone()
    kept = dict(database.execute("SELECT key, id FROM artifact"))
    variables = {
        "PREFECT_HOME": str(by_flow / ".prefect-home"),
        "PREFECT_SERVER_UI_API_URL": f"{own}/api",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(tmp_path / "pages"),  # the pages hold the address of the API
    }
    with browser_page() as page, prefect_server(tmp_path, port, **variables):
        page.goto(f"{own}/runs/flow-run/{flow_run}")
        expect(page.get_by_text("15 Task runs")).to_be_visible()
        keep(page, "prefect-run")
        page.get_by_text("Artifacts", exact=True).first.click()
        expect(page.get_by_text("augmentation trunks 3 of 3, best reward")).to_be_attached()
        page.get_by_text("stages", exact=True).first.click()
        for shown in ("train@searched", re.compile(r"^(\d+) of \1 checks passed$"), "version 1 published"):
            expect(page.get_by_text(shown, exact=True)).to_be_attached()
        keep(page, "prefect-stages")
        page.goto(f"{own}/artifacts/artifact/{kept['headline']}")
        expect(page.get_by_text("Version 1 published: accuracy")).to_be_visible()
        for key, place in (("report", "/artifacts/report.html"), ("mlflow", "?")):
            page.goto(f"{own}/artifacts/artifact/{kept[key]}")
            run_page = f"http://127.0.0.1:5000/#/experiments/1/runs/{parent.info.run_id}"
            expect(page.locator(f"a[href^='{run_page}{place}']")).to_be_visible()


def test_prefect_shows_a_table_of_the_steps_and_how_far_each_was(by_flow: Path) -> None:
    database = sqlite3.connect(by_flow / ".prefect-home" / "prefect.db")
    (table,) = database.execute("SELECT data FROM artifact WHERE key = 'stages' ORDER BY created LIMIT 1").fetchone()
    rows = {row["stage"]: row for row in json.loads(json.loads(table))}
    assert next(iter(rows)) == "ingest"
    assert list(rows)[-3:] == ["gate", "publish", "report"]
    assert {name for name, row in rows.items() if row["state"] == "unchanged"} == set(MEASURE_TIME)
    assert {row["state"] for row in rows.values()} == {"done", "unchanged"}
    assert rows["augmentation"]["progress"] == "3 of 3"
    assert rows["augmentation"]["key figure"].startswith("best reward ")
    assert rows["publish"]["key figure"] == "version 1 published"
    assert all(float(row["seconds"]) >= 0 for row in rows.values())
    percents = dict(database.execute("SELECT key, data FROM artifact WHERE type = 'progress' ORDER BY created DESC"))
    assert {percents[f"progress-{name.replace('@', '-')}"] for name in COMPUTED} == {100}


def test_nothing_written_names_this_machine_or_a_path_on_it(by_flow: Path) -> None:
    words = [str(by_flow).encode(), str(ROOT).encode(), os.uname().nodename.encode()]
    places = [by_flow / "results", by_flow / "data", by_flow / "mlflow" / "store" / "artifacts", by_flow / "dvc.lock"]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    assert len(files) > 30
    for file in files:
        content = file.read_bytes()
        assert not [word for word in words if len(word) > 3 and word in content], file


def test_an_ended_or_killed_flow_leaves_no_process_and_the_next_goes_on_after_the_last_finished_stage(
    by_flow: Path,
) -> None:
    """A changed loss setting makes plan, loss, race, train and evaluate stale; Ctrl-C and then SIGKILL come while it
    trains."""
    settings = by_flow / "params.yaml"
    settings.write_text(settings.read_text().replace("knots: 4", "knots: 5").replace("epochs: 2\n", "epochs: 400\n"))
    ended = end_while_training(by_flow, signal.SIGINT)
    assert "\nerror: interrupted; start again and the finished stages are not repeated\n" in ended
    again = end_while_training(by_flow, signal.SIGKILL)
    assert stages_run(again)[0].startswith("train@")
    settings.write_text(settings.read_text().replace("epochs: 400\n", "epochs: 2\n"))
    done = run(by_flow, "-m", "flows.retrain")
    repeated = stages_run(done.stdout + done.stderr)
    assert repeated[0] == "train@searched"  # it depends on the loss that was found, whether or not that ships
    assert {name.partition("@")[0] for name in repeated} <= {"train", "evaluate"}  # the latter only for new bytes
    assert kills.stuck(by_flow) == 0
    database = sqlite3.connect(by_flow / ".prefect-home" / "prefect.db")
    states = [state for (state,) in database.execute("SELECT state_type FROM flow_run ORDER BY start_time")]
    assert states[-3:] == ["CRASHED", "CRASHED", "COMPLETED"]


def end_while_training(clone: Path, how: signal.Signals) -> str:
    """What the flow printed until it was ended by the signal, with nothing left of it in a few seconds."""
    log = clone / f"{how.name}.log"
    with log.open("w") as output:
        flow = subprocess.Popen(
            [sys.executable, "-m", "flows.retrain"],
            cwd=clone,
            env=environment(clone),
            stdout=output,
            stderr=output,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - background jobs ignore it
        )
        wait_for(lambda: stages_run(log.read_text())[-1:] in (["train@searched"], ["train@baseline"]), flow)
        wait_for(lambda: any(trained_epochs(clone)), flow)
        flow.send_signal(how)
        code = flow.wait(60)
    assert code == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[how], log.read_text()[-3000:]
    assert kills.left_after(clone, kills.SECONDS_TO_VANISH) == 0
    return log.read_text()


def trained_epochs(clone: Path) -> Iterator[Path]:
    """What a training leaves of its finished epochs while it works."""
    return (file for file in clone.glob("checkpoints/train@*/*/*") if file.is_file())


@pytest.mark.parametrize(("stage", "victim", "share"), [("train@searched", "stage", 0.7), ("loss", "dvc", 0.5)])
def test_a_killed_stage_is_finished_by_the_next_start_with_the_same_bytes_and_records(
    by_dvc: Path, tmp_path: Path, stage: str, victim: str, share: float
) -> None:
    """Two of the moments of `make bench NAME=kills`."""
    row = kills.trial(by_dvc, tmp_path / "trial", stage, victim, share)
    expected = {"identical": True, "orphans": 0, "stuck_runs": 0, "lost_records": 0, "unfinished_files": 0}
    assert {name: row[name] for name in expected} == expected


def wait_for(condition, process: subprocess.Popen[bytes], seconds: float = 150) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("knots: 4", "knotz: 4", "loss.knotz"),  # refused by the flow
        ("batch_size: 32", "batch_size: 100000", "batch_size"),  # by a step of its own
        ("latency_ms: 5.0", "latency_ms: 0.000001", "latency_ms"),  # by a stage
    ],
)
def test_bad_input_gives_one_sentence_and_exit_code_2_and_writes_nothing(
    by_dvc: Path, tmp_path: Path, old: str, new: str, says: str
) -> None:
    clone = copy_of(by_dvc, tmp_path / "clone")
    settings = clone / "params.yaml"
    settings.write_text(settings.read_text().replace(old, new))
    before = {file: file.read_bytes() for file in (clone / "results" / "architecture").rglob("*") if file.is_file()}
    done = run(clone, "-m", "flows.retrain", check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(set(sentences)) == 1
    assert says in sentences[0]
    assert "Traceback" not in done.stderr
    assert {file: file.read_bytes() for file in before if file.exists()} == before


def copy_of(line: Path, clone: Path) -> Path:
    """Without MLflow's database: SQLite loses its locks where a process that has it open opens and closes it again."""
    shutil.copytree(line, clone, ignore=shutil.ignore_patterns("store"))
    return clone


def test_two_budgets_give_two_models_each_measured_beside_its_own_limit(by_dvc: Path, tmp_path: Path) -> None:
    """The second allows little more than the cheapest network; evaluate goes on as with one. What else the line found
    is that of one budget: of the stages those run that budgets are something to, and by DVC those that it alone has."""
    clone = copy_of(by_dvc, tmp_path / "clone")
    second = write_second_budget(clone)
    with contextlib.chdir(clone):
        params = load_params()
        run_stage(architecture, params, Silent(), tmp_path / "architecture")
        run_stage(train, params, Silent(), "searched", tmp_path / "train")
    run(clone, "-m", "dvc", "repro", "--single-item", "train@budget_2", "evaluate@searched", "evaluate@budget_2")
    measured = results_of(clone, "budget_2")
    assert (results_of(clone, "searched")["limit_ms"], measured["limit_ms"]) == (5.0, second)
    assert measured["predicted_ms"] <= second
    assert 0 < measured["quiet_ms"] <= measured["p99_ms"]
    model = (clone / "results/train/budget_2/model.onnx").read_bytes()
    budgets = json.loads((clone / "results/architecture/architecture.json").read_text())["budgets"]
    assert read_metadata(model)["architecture"] == budgets[1]["architecture"]
    test = open_split(clone / "data/prepared/test")
    accuracy = float((onnx_logits(model, test.images).argmax(axis=1) == test.labels).mean())
    assert measured["accuracy_low"] < measured["accuracy"] == accuracy <= measured["accuracy_high"]
    assert measured["parity"] < 1e-3
    logged = run_of(clone, "evaluate@budget_2")
    assert logged.info.status == "FINISHED"
    for name, value in {"limit_ms": second, "latency_ms": measured["quiet_ms"], "accuracy": accuracy}.items():
        assert logged.data.metrics[f"evaluate/budget_2/{name}"] == value
    assert "results/evaluate/budget_2/metrics.json" in run(clone, "-m", "dvc", "metrics", "show", "--md").stdout


def write_second_budget(clone: Path) -> float:
    """Add a budget, of which only its margin and a hundredth are beyond the cheapest network; returns it."""
    settings = clone / "params.yaml"
    chosen = load_params(settings).architecture
    table = LatencyTable.from_json(json.loads((clone / "results/latency/table.json").read_text()))
    space = space_of(chosen, read_classes(clone / "data/prepared/classes.json"))
    cheapest, _ = block_extras(space, table.predict)
    budget = round(1.01 * table.predict(cheapest) / (1 - chosen.margin), 9)
    text = settings.read_text().replace("latency_ms: 5.0", f"latency_ms: [5.0, {budget}]")
    text = text.replace("variants: [searched, baseline]", "variants: [searched, baseline, budget_2]")
    settings.write_text(text)
    return budget


def results_of(clone: Path, variant: str) -> dict[str, Any]:
    """A variant's metrics.json and latency.json as one."""
    folder = clone / "results" / "evaluate" / variant
    metrics, latency = (json.loads((folder / name).read_text()) for name in ("metrics.json", "latency.json"))
    return metrics | latency


def test_the_dvc_lock_says_nothing_of_time_or_place(by_dvc: Path) -> None:
    text = json.dumps(yaml.safe_load((by_dvc / "dvc.lock").read_text()))
    assert not re.search(r"20\d\d-\d\d-\d\d|/tmp|/home|/root", text)


# ---------------------------------------------------------------- the audit of a model that `dvc repro` made


CHAMPION = "models:/tiny-digits@champion"


@pytest.fixture(scope="module")
def published(by_dvc: Path) -> Path:
    """The clone in which `dvc repro` ran, its model now champion."""
    publish_in(by_dvc)
    return by_dvc


def publish_in(clone: Path) -> None:
    with contextlib.chdir(clone), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert publish.main([]) == 0


def client_of(clone: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{clone}/mlflow/store/mlflow.db")


def decision_run(clone: Path) -> str:
    return str(client_of(clone).get_model_version_by_alias("tiny-digits", "champion").tags["gate.run"])


def archived(clone: Path, name: str) -> Path:
    (file,) = (clone / "mlflow/store/artifacts").glob(f"{decision_run(clone)}/**/{name}")
    return file


def cached(clone: Path, path: str) -> Path:
    """The object in DVC's cache that holds an output, or the first image shard of data/raw."""
    stages = yaml.safe_load((clone / "dvc.lock").read_text())["stages"].values()
    md5 = {entry["path"]: entry["md5"] for stage in stages for entry in (*stage["deps"], *stage["outs"])}[path]
    if md5.endswith(".dir"):
        listing = clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        md5 = json.loads(listing.read_text())[0]["md5"]
    return clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


@contextlib.contextmanager
def flipped_in_the_registry(clone: Path) -> Iterator[None]:
    (file,) = (clone / "mlflow/store/artifacts").glob("models/*/artifacts/model.onnx")
    with flipped(file):
        yield


@contextlib.contextmanager
def flipped_in_the_cache(clone: Path) -> Iterator[None]:
    with flipped(cached(clone, "results/loss/loss.json")):
        yield


@contextlib.contextmanager
def images_lost(clone: Path) -> Iterator[None]:
    file = cached(clone, "data/raw")
    file.rename(clone / "lost")
    yield
    (clone / "lost").rename(file)


@contextlib.contextmanager
def lock_edited(clone: Path) -> Iterator[None]:
    file = archived(clone, "dvc.lock")
    with replaced(file, file.read_bytes().replace(b"knots: 4", b"knots: 8")):
        yield


@contextlib.contextmanager
def settings_edited(clone: Path) -> Iterator[None]:
    file = archived(clone, "params.yaml")
    with replaced(file, file.read_bytes().replace(b"epochs: 2", b"epochs: 3")):
        yield


def run_of(clone: Path, stage: str) -> Run:
    client = client_of(clone)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, filter_string=f"attributes.run_name = '{stage}'")[0]


@contextlib.contextmanager
def run_deleted(clone: Path) -> Iterator[None]:
    run_id = run_of(clone, "augmentation").info.run_id
    client_of(clone).delete_run(run_id)
    yield
    client_of(clone).restore_run(run_id)


@contextlib.contextmanager
def trained_by_other_code(clone: Path) -> Iterator[None]:
    """As a stage records it that ran with an edit which was never committed."""
    run_id, key = run_of(clone, "train@searched").info.run_id, "dvc.dep.components/training/loop.py"
    before = client_of(clone).get_run(run_id).data.tags[key]
    client_of(clone).set_tag(run_id, key, "0" * 32)
    yield
    client_of(clone).set_tag(run_id, key, before)


def test_an_audit_walks_from_the_model_to_the_images_and_finds_every_byte(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.chdir(published):
        assert audit.main([CHAMPION]) == 0
    said = capsys.readouterr().out
    words = (*reversed(SEARCHED[:5]), "latency", "prepare", "plan", "data/raw")  # the latest first
    places = [said.index(f"─ {word}") for word in words]
    assert places == sorted(places)
    checks = re.search(r"(\d+) checks: everything is as recorded", said)
    assert checks is not None
    assert int(checks[1]) > 100
    page = archived(published, "lineage.html").read_text()
    assert "everything is as recorded" in page
    assert not re.search(r"src=|href=\"[^#]|https?://|@import", page), "it must need nothing else"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (flipped_in_the_registry, {"MISMATCH the registry's file"}),
        (flipped_in_the_cache, {"MISMATCH results/loss/loss.json"}),
        (images_lost, {"GAP data/raw/"}),
        (lock_edited, {"MISMATCH the archived dvc.lock", "MISMATCH loss in dvc.lock"}),
        (settings_edited, {"MISMATCH the archived params.yaml", "MISMATCH train@searched in params.yaml"}),
        (run_deleted, {"GAP results/augmentation/augmentation.json"}),
        (trained_by_other_code, {"MISMATCH components/training/loop.py"}),
    ],
)
def test_an_audit_names_what_differs_and_what_is_missing(
    published: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], contextlib.AbstractContextManager[None]],
    named: set[str],
) -> None:
    with contextlib.chdir(published), damage(published):
        assert_audit_names(named, capsys)


def assert_audit_names(named: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It fails, and says all of these."""
    assert audit.main([CHAMPION]) == 1
    said = capsys.readouterr().out
    assert [name for name in named if name not in said] == []
    assert "failed" in said.splitlines()[-1]


def test_an_audit_of_no_model_is_one_sentence_and_exit_code_2(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.chdir(published):
        for uri in ("models:/tiny-digits@nobody", "models:/tiny-digits/99", "tiny-digits"):
            assert audit.main([uri]) == 2
            assert capsys.readouterr().err.startswith(f"error: {'the registry has no ' if ':' in uri else ''}{uri}")


def test_a_model_computed_anew_from_what_is_recorded_has_the_same_md5(
    published: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The searches come from the cache here, as the latencies do; `train` is computed in the temporary checkout."""
    monkeypatch.setattr(reproduce, "MEASURED", (*reproduce.MEASURED, "prepare", *SEARCHED[:4]))
    with contextlib.chdir(published):
        tree, bad = audit.audit(CHAMPION, again=True)
    assert bad == []
    assert tree.findings[-1].subject == "the model computed anew"
    assert stages_run(capfd.readouterr().out) == ["train@searched"]


def test_the_first_stage_that_differs_is_named() -> None:
    before = {name: {"outs": [{"path": f"{name}.json", "md5": name}]} for name in ("prepare", "loss", "train")}
    after = before | {name: {"outs": [{"path": f"{name}.json", "md5": "other"}]} for name in ("loss", "train")}
    assert reproduce.first_difference(before, after) == "the first stage that differs is loss (loss.json)"
