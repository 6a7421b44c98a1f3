"""The report says what the result files say, all of it in one file, and in a sentence what it cannot say."""

import contextlib
import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from components.data.images import encode_png
from components.data.intake import take_in
from components.data.sources import open_source
from components.data.split import write_assignment
from components.data.store import Split, open_split
from components.progress import unwatched
from components.settings.budget import Budget
from components.settings.online import Online
from components.settings.params import Params
from flows import ingest
from flows.checkout import files, paths, versions
from flows.checkout.files import read_json
from flows.checkout.roster import ROSTER
from flows.checkout.settings import load_params
from flows.release import decision_record, gate
from flows.release.gate import Check, GateReport, Score
from flows.report import __main__ as command
from flows.report import architecture as architecture_report
from flows.report import augmentation as augmentation_report
from flows.report import charts, figures, headline, page
from flows.report import evaluation as evaluation_report
from flows.report import notes as stage_notes
from flows.report import race as race_report
from flows.report.augmentation import DRAWS
from flows.report.images import GAP, SIDE, picture
from flows.report.page import SECTIONS, inline, make, parts_or_note, render
from flows.report.parts import Facts, Figure, Note, Part, Pictures, Table
from flows.report.reading import read_rows
from flows.runtime.observer import Silent
from flows.stages import architecture, augmentation, evaluate, latency, loss, plan, prepare, race, train
from flows.tracking import runs
from tests.clones import ROOT
from tests.stages import run as run_stage

pytestmark = pytest.mark.timeout(900)  # the line that the fixture runs counts for the first test

HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = ("$a$ & b", HOSTILE, "ünï '\"` 字")
"""Classes of the workspace."""
IMAGES = 60
"""Of each class."""
SEARCHES = ("architecture", "augmentation", "loss", "race")
STAGES = (
    "plan",
    "prepare",
    "latency",
    *SEARCHES,
    "train@searched",
    "train@baseline",
    "evaluate@searched",
    "evaluate@baseline",
)
LARGEST = 5_000_000
"""Bytes that a report may have, whatever the images, the classes and the trunks."""


class Page(HTMLParser):
    """What a browser would make of the page, as far as the tests ask."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self._silent = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        self._silent = tag == "style"
        if tag == "tr":
            self.cells.append([])
        if tag in ("th", "td"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        self.text += data
        if self.cells and self.cells[-1]:
            self.cells[-1][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with awkward class names, one of them no image, through every stage with the tiny settings."""
    folder = tmp_path_factory.mktemp("workspace")
    digits = load_digits()  # every network learns these without a mistake but for the wrong labels
    for label, name in enumerate(NAMES):
        place = folder / "source" / name
        place.mkdir(parents=True)
        for index, image in enumerate(np.concatenate(list(images_under(label, digits)))):
            (place / f"{index}.png").write_bytes(encode_png(Image.fromarray((image * 15).astype(np.uint8))))
    (folder / "source" / NAMES[0] / "broken.png").write_bytes(b"no image")
    settings = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
    settings["data"] |= {"source": "folder", "path": "source"}
    settings["export"] = {"quantize": "none"}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run_stages(load_params())
    return folder


def images_under(label: int, digits: Any) -> Iterator[np.ndarray]:
    """The images of a class: of its own digit, and a few of each other, which no other class has."""
    for digit in range(len(NAMES)):
        images, wrong = digits.images[digits.target == digit], slice(IMAGES + 6 * label, IMAGES + 6 * label + 6)
        yield images[: IMAGES - 6 * (len(NAMES) - 1)] if digit == label else images[wrong]


def run_stages(params: Params) -> None:
    """The line without DVC, Prefect and MLflow."""
    paths.RAW.mkdir(parents=True)
    report = take_in(open_source(params.data), paths.RAW, params.data, unwatched)
    write_assignment(paths.SPLIT, ingest.split(report, params).assignment)
    for first in (plan, prepare, latency):
        run_stage(first, params, Silent())
    for stage in (architecture, augmentation, loss, race):
        run_stage(stage, params, Silent(), Path("checkpoint") / stage.__name__)
    for variant in params.train.variants:
        run_stage(train, params, Silent(), variant, Path("checkpoint") / variant)
        run_stage(evaluate, params, Silent(), variant)


@pytest.fixture
def params(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(runs, "core_minutes", lambda key: None)  # a store takes seconds to make
    return load_params()


@pytest.fixture(scope="module")
def shown(workspace: Path) -> Page:
    with contextlib.chdir(workspace):
        return Page(rendered())


def rendered() -> str:
    params = load_params()
    return render(params.publish.model, "report", make(params))


def parts(anchor: str, params: Params) -> list[Part]:
    (section,) = (section for section in SECTIONS if section.anchor == anchor)
    return [part for what, maker in section.makers.items() for part in parts_or_note(what, maker, params)]


def notes(some: list[Part]) -> str:
    return "\n".join(part.text for part in some if isinstance(part, Note))


def tables(some: list[Part]) -> list[Table]:
    return [part for part in some if isinstance(part, Table)]


@contextlib.contextmanager
def without(place: Path) -> Iterator[None]:
    hidden = place.with_name("hidden")
    place.rename(hidden)
    yield
    hidden.rename(place)


# --- the page


def test_every_section_is_there_and_shows_all_it_has(shown: Page) -> None:
    ids = shown.attributes("id")
    assert [section.anchor for section in SECTIONS if section.anchor not in ids] == []
    charts = ("headline", "architecture", "augmentation", "loss", "training", "classes")
    labels = [label for label in shown.attributes("aria-label") if label != "sections"]
    assert len(labels) >= 11
    assert sum(tag == "svg" for tag, _ in shown.tags) == len(labels)
    assert all(f"#{anchor}" in shown.attributes("href") for anchor in charts)
    # this line ran without DVC: what only DVC knows is said to be missing, nothing else
    missing = re.findall(r"Not shown: (.*?)\. (\S+) is missing", shown.text)
    assert missing == [
        ("whether the results belong together", "dvc.lock"),
        ("the data version", "data/raw.dvc"),
        ("the lineage", "dvc.lock"),
    ]
    assert shown.text.count("Not shown") == len(missing)


def test_it_loads_nothing(workspace: Path) -> None:
    with contextlib.chdir(workspace):
        text = rendered()
    shown = Page(text)
    assert not re.search(r"https?:|//|@import|file:", re.sub(r"data:image/png;base64,[A-Za-z0-9+/=\s]+", "", text))
    assert {tag for tag, _ in shown.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base"})
    links = [value for name in ("src", "href") for value in shown.attributes(name)]
    assert len(links) > 40
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in links)
    assert shown.attributes("srcset") == []


def test_charts_have_ids_of_their_own_and_colours_of_the_page(shown: Page) -> None:
    ids = shown.attributes("id")
    assert len(ids) == len(set(ids))
    everything = [value for _, attributes in shown.tags for value in attributes.values()]
    referred = {name for value in everything for name in re.findall(r"url\(#([^)]+)\)", value)}
    referred |= {value[1:] for value in shown.attributes("href") if value.startswith("#")}
    assert referred <= set(ids)
    styles = " ".join(shown.attributes("style"))
    assert "var(--ink)" in styles
    assert not set(page.COLOURS) & set(re.findall(r"#[0-9a-f]{6}", styles)), "not readable on a dark page"


def test_class_names_are_text_and_nothing_else(shown: Page) -> None:
    assert all(attributes["src"].startswith("data:") for tag, attributes in shown.tags if tag == "img")
    assert shown.attributes("onerror") == []
    for name in NAMES:
        assert any(row[0] == name for row in shown.cells), name
    assert any(HOSTILE[: figures.MAX_LETTERS - 1] in text for text in shown.text.split("\n")), "the chart cuts it off"


def test_a_name_that_xml_forbids_does_not_break_a_chart() -> None:
    svg = figures.confusion(np.eye(2), ["bell \x07 and escape \x1b", "$\\frac{$"])
    drawn = inline(svg, "x")
    assert "bell \N{REPLACEMENT CHARACTER}" in drawn
    assert "$\\frac{$" in drawn


# --- the numbers


def test_the_confusion_matrix_counts_label_by_prediction() -> None:
    rows = [{"actual": a, "predicted": s} for a, s in (("cat", "cat"), ("cat", "dog"), ("dog", "dog"), ("dog", "fox"))]
    assert evaluation_report.counts(rows, ["cat", "dog", "fox"]).tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_the_headline_has_the_numbers_of_the_files(params: Params) -> None:
    some = parts("headline", params)
    metrics = {name: files.read_json(paths.of_variant(paths.METRICS, name)) for name in ("searched", "baseline")}
    times = files.read_json(paths.MEASURED)
    (facts,) = (part for part in some if isinstance(part, Facts))
    said = {fact.name: f"{fact.value} {fact.beside}" for fact in facts.facts}
    searched = metrics["searched"]
    for value in (
        searched["accuracy"],
        searched["accuracy_low"],
        searched["accuracy_high"],
        metrics["baseline"]["accuracy"],
    ):
        assert f"{value:.2%}" in said["accuracy"]
    for value in (times["quiet_ms"], times["predicted_ms"], times["limit_ms"]):
        assert f"{value:.3g} ms" in said["latency"]
    assert {row[0]: row[1] for row in tables(some)[0].rows} == {
        name: f"{metrics[name]['accuracy']:.2%}" for name in ("searched", "baseline")
    }
    both = zip(read_rows(paths.PREDICTIONS), read_rows(paths.of_variant(paths.PREDICTIONS, "baseline")), strict=True)
    alone = sum(own["predicted"] == own["actual"] != other["predicted"] for own, other in both)
    (figure,) = (part for part in some if isinstance(part, Figure))
    assert f"The searched network alone is right on {alone:,} image" in figure.caption


def test_the_tables_of_classes_are_those_of_the_files(params: Params) -> None:
    with (paths.PER_CLASS).open() as file:
        rows = list(csv.DictReader(file))
    recalls = {row["name"]: (row["images"], f"{float(row['recall']):.2%}") for row in rows}
    table = tables(parts("classes", params))[0]
    assert {row[0]: (row[1], row[2]) for row in table.rows} == recalls
    counts = json.loads(paths.STATISTICS.read_text())["counts"]
    (by_class, refused) = tables(parts("data", params))
    assert {row[0]: row[1] for row in by_class.rows[:-1]} == {name: str(counts["train"][name]) for name in NAMES}
    assert by_class.rows[-1][-1] == str(3 * IMAGES)
    assert [(row[0], row[2]) for row in refused.rows] == [(f"{NAMES[0]}/broken.png", "not an image")]


def test_the_chain_has_the_chosen_block_of_every_layer(params: Params) -> None:
    (chain,) = (part for part in parts("architecture", params) if part.kind == "chain")
    found = json.loads((paths.FOUND_ARCHITECTURE).read_text())["architecture"].split("|")
    assert [link.name for link in chain.links] == ["image", "stem", *found, "classifier"]
    assert [link.skipped for link in chain.links[2:-1]] == [block == "identity" for block in found]
    assert set(chain.meanings) == {"stem", *found, "classifier"}


def test_models_of_further_budgets_stand_beside_their_own_limits(params: Params) -> None:
    """As `evaluate` leaves them: the searched network's figures under another name."""
    scores, times = (files.read_json(path) for path in (paths.METRICS, paths.MEASURED))
    files.write_json(paths.of_variant(paths.METRICS, "budget_2"), scores)
    files.write_json(paths.of_variant(paths.MEASURED, "budget_2"), times | {"limit_ms": 0.25})
    several = dataclasses.replace(params, budget=Budget(latency_ms=(5.0, 2.0)))
    wanted = dataclasses.replace(
        several,
        train=dataclasses.replace(params.train, variants=(*params.train.variants, "budget_2")),
    )
    (row,) = tables(parts("architecture", wanted))[0].rows
    assert (row[0], row[1], row[-1]) == ("budget_2", f"{scores['accuracy']:.2%}", "0.25 ms")
    assert "The networks of further budgets were not trained" in notes(parts("architecture", several))


def test_the_distribution_starts_with_the_settings_and_ends_with_the_policy(params: Params) -> None:
    policy = json.loads((paths.FOUND_AUGMENTATION).read_text())
    rows = read_rows(paths.DISTRIBUTION)
    names, shares = augmentation_report.operation_shares(rows, {"Identity": 1.0})
    assert shares.shape == (len(names), 1 + params.augmentation.online.trunks)
    assert dict(zip(names, shares[:, -1].tolist(), strict=True)) == pytest.approx(
        {one["operation"]: one["share"] for one in policy["operations"]}
    )
    assert shares[:, 0].tolist() == [float(name == "Identity") for name in names]


def test_the_race_says_of_each_factor_what_the_best_of_the_others_brought_and_what_ships(params: Params) -> None:
    record = files.read_json(paths.DECIDED)
    decided, *rungs = tables(parts("race", params))
    assert [row[0] for row in decided.rows] == list(race_report.QUESTIONS.values())
    for row, one in zip(decided.rows, record["decisions"], strict=True):
        shown = {key: race_report.name_of(one["factor"], one[key]) for key in ("plain", "taken")}
        assert (row[2], row[5]) == (shown["plain"], shown["taken"])
        if one["other"] is None:
            assert row[1] == "nothing else was tried"
        else:
            assert row[3].startswith(f"{100 * one['gain']:+.2f} ({100 * one['gain_low']:+.2f} to ")
            assert row[4] == f"{one['p']:.2g}"
    assert f"p below {params.race.alpha:g}" in decided.caption
    rows = read_rows(paths.RUNGS)
    assert sum(len(table.rows) for table in rungs) == len(rows)
    accuracies = [row[3] for table in rungs for row in table.rows]
    assert accuracies == [f"{float(row['accuracy']):.2%}" for row in rows]


def test_the_race_says_what_each_variant_trains(params: Params) -> None:
    record = files.read_json(paths.DECIDED)
    seen = record["variants"]["searched"]["images"]
    said = notes(parts("race", params)).split("\n")
    network = record["variants"]["baseline"]["architecture"].replace("|", " → ")
    assert said[0].endswith(f", from the race's weights ({seen:,} images seen).")
    assert said[1] == f"`baseline` trains {network} with augmentation plain and loss plain."


def test_a_candidate_of_the_race_that_diverged_is_said_to(params: Params) -> None:
    file = paths.RUNGS
    before, rows = file.read_bytes(), read_rows(file)
    rows[0] |= {"accuracy": "nan", "score": "nan", "kept": "False", "fault": "its loss is nan"}
    rows[1] |= {"kept": "False"}
    files.write_csv(file, rows)
    shown = [row for table in tables(parts("race", params))[1:] for row in table.rows]
    file.write_bytes(before)
    assert shown[0][3:] == ["", "", "its loss is nan"]
    assert shown[1][5] == "leaves"


def test_the_plan_says_its_reasons_and_the_minutes_of_every_part(params: Params) -> None:
    record = files.read_json(paths.PLANNED)
    some = parts("plan", params)
    assert notes(some).split("\n") == record["sentences"]
    (minutes,) = tables(some)  # the settings that it chose are none: all are stated here
    assert {row[0]: row[1] for row in minutes.rows} == {
        part: f"{seconds / 60:.2f}" for part, seconds in record["seconds"].items()
    }
    assert sum(float(row[2].rstrip("%")) for row in minutes.rows) == pytest.approx(100, abs=3)


def test_the_plan_lists_every_setting_that_it_chose(params: Params) -> None:
    before = paths.PLANNED.read_bytes()
    chosen = {"data.size": 16, "architecture.stages": [[24, 2, 2]]}
    files.write_json(paths.PLANNED, files.read_json(paths.PLANNED) | {"chosen": chosen})
    listed = tables(parts("plan", params))[1]
    paths.PLANNED.write_bytes(before)
    assert listed.rows == [["architecture.stages", "[[24, 2, 2]]"], ["data.size", "16"]]


def test_a_search_that_was_left_out_says_so_and_shows_nothing_else(params: Params) -> None:
    left_out = dataclasses.replace(
        params,
        architecture=dataclasses.replace(params.architecture, strategy="largest"),
        augmentation=dataclasses.replace(params.augmentation, online=without_trunks(params.augmentation.online)),
        loss=dataclasses.replace(params.loss, online=without_trunks(params.loss.online)),
    )
    made = {section.anchor: own for section, own in make(left_out)}
    for anchor in ("architecture", "augmentation", "loss"):
        ((note,),) = made[anchor].values()
        assert isinstance(note, Note)
        assert note.text.startswith("Nothing was searched here.")
    for section, own in make(params):
        assert "Nothing was searched here." not in notes([part for each in own.values() for part in each]), section


def without_trunks(online: Online) -> Online:
    return dataclasses.replace(online, trunks=0)


def test_the_mistakes_are_the_most_confident_ones_first_and_their_own_images(params: Params) -> None:
    rows = read_rows(paths.PREDICTIONS)
    wrong = [(place, row) for place, row in enumerate(rows) if row["predicted"] != row["actual"]]
    assert wrong, "the test needs a network that errs"
    wrong.sort(key=lambda one: -float(one[1]["confidence"]))
    (shown,) = (part for part in parts("classes", params) if isinstance(part, Pictures))
    images = open_split(paths.TEST).images
    expected = [picture(images[place], "").address for place, _ in wrong[:20]]
    assert [one.address for one in shown.rows[0]] == expected
    assert f"says {wrong[0][1]['predicted']} ({float(wrong[0][1]['confidence']):.0%})" in shown.rows[0][0].below


# --- the gate and the cost


def decided(passed: bool, md5: str | None = None, champion: str | None = "4") -> None:
    own = md5 or files.md5_of(paths.MODEL.read_bytes())
    checks = (
        Check(name="accuracy", value=0.9, rule="at least", threshold=0.8),
        Check(name="latency_quiet_ms", value=0.5 if passed else 7.0, rule="at most", threshold=5.0),
    )
    report = GateReport(
        md5=own, champion=champion, against="champion version 4 on 30 of 36 test images",
        reference=Score(right=27, images=30), device="an oven", checks=checks,
    )  # fmt: skip
    decision_record.keep(report, "tiny", "5", "published" if passed else "refused")


@pytest.fixture
def no_decision(params: Params) -> Iterator[None]:
    yield
    paths.DECISION.unlink(missing_ok=True)


def test_a_model_that_ships_stands_beside_the_champion_before_it(params: Params, no_decision: None) -> None:
    decided(passed=True)
    some = parts("headline", params)
    assert "tiny version 5 is in service: models:/tiny@champion" in notes(some)
    assert "rollback` puts version 4 back" in notes(some)
    accuracies, checks = tables(some)
    assert list(accuracies.rows[-1]) == ["champion, version 4", "90.00%", "74.38% to 96.54%"]  # Wilson, by hand
    assert [row[3] for row in checks.rows] == ["passed", "passed"]


def test_a_refused_model_comes_with_the_reason_and_a_remedy(params: Params, no_decision: None) -> None:
    decided(passed=False)
    said = notes(parts("headline", params))
    assert (
        "tiny version 5 is not in service, for the gate refused it: latency_quiet_ms is 7, allowed is at most 5" in said
    )
    assert "latency_quiet_ms: raise architecture.margin" in said


def test_every_check_of_the_gate_has_a_remedy() -> None:
    names = set(re.findall(r'Check\(\s*name="(\w+)"', Path(gate.__file__).read_text()))
    assert len(names) > 10
    assert set(headline.REMEDIES) == names


def test_a_decision_on_another_file_is_not_this_model_s(params: Params, no_decision: None) -> None:
    decided(passed=True, md5="0" * 32)
    assert "The gate has not judged this model" in notes(parts("headline", params))


def test_a_champion_judged_again_keeps_what_was_decided_of_it(params: Params, no_decision: None) -> None:
    decided(passed=True)
    before = paths.DECISION.read_bytes()
    md5 = files.md5_of(paths.MODEL.read_bytes())
    decision_record.keep(
        GateReport(md5=md5, champion="5", against="itself", checks=()), "tiny", "5", "already champion"
    )
    assert paths.DECISION.read_bytes() == before


def test_costs_are_summed_and_divided_by_one_training() -> None:
    searches = {"architecture": 3.0, "augmentation": 2.0, "loss": 1.0, "race": 1.0}
    spent = searches | {"train@baseline": 1.75}
    assert headline.searches_fact(spent).value == "7"
    assert headline.searches_fact(spent).beside == "4.0 times one training (1.75)"
    assert headline.searches_fact(spent | {"loss": None}).value == "not recorded"
    (table,) = headline.cost_of_stages(spent | {"train@baseline": None})
    assert "Not recorded: train@baseline." in table.caption
    assert [row[2] for row in table.rows] == ["not known"] * 4


def test_results_of_different_runs_are_said_to_be(params: Params) -> None:
    """As after an edit of one result: its md5 is no longer what dvc.lock names."""
    lock = {"cmd": "x", "deps": [], "outs": [{"path": paths.MODEL.as_posix(), "md5": "0" * 32}]}
    versions.LOCK.write_text(yaml.safe_dump({"stages": {"train@searched": lock}}))
    said, (tree,) = notes(parts("headline", params)), parts("lineage", params)
    versions.LOCK.unlink()
    assert "they may be of different runs or of other code: results/train/searched/model.onnx differs from what" in said
    assert tree.kind == "tree"
    assert "1 of them differ: run `dvc repro`." in tree.caption


def test_results_of_a_search_that_was_kept_are_none_of_another_run(params: Params) -> None:
    """Frozen on the images before: what it read then is not what `prepare` writes now."""
    found, prepared = paths.FOUND_LOSS, paths.CLASSES
    now, before = files.md5_of(prepared.read_bytes()), "0" * 32
    stages = {
        "prepare": locked({}, {prepared: now}),
        "loss": locked({prepared: before}, {found: files.md5_of(found.read_bytes())}),
        "train@searched": locked(
            {prepared: now, found: files.md5_of(found.read_bytes())},
            {paths.MODEL: files.md5_of(paths.MODEL.read_bytes())},
        ),
    }
    versions.LOCK.write_text(yaml.safe_dump({"stages": stages}))
    (differing,) = notes_of_lineage(params)
    versions.PIPELINE.write_text(yaml.safe_dump({"stages": {"loss": {"cmd": "x", "frozen": True}}}))
    frozen = notes_of_lineage(params)
    versions.LOCK.unlink()
    versions.PIPELINE.unlink()
    assert "dvc repro" in differing
    assert frozen == ["Everything here is what dvc.lock names."]


def locked(deps: dict[Path, str], outs: dict[Path, str]) -> dict[str, Any]:
    listed = {
        part: [{"path": path.as_posix(), "md5": md5} for path, md5 in hashes.items()]
        for part, hashes in (("deps", deps), ("outs", outs))
    }
    return {"cmd": "x", **listed}


def notes_of_lineage(params: Params) -> list[str]:
    """What the report says of whether the files belong together."""
    (tree,) = parts("lineage", params)
    assert tree.kind == "tree"
    return re.findall(r"Everything here is what dvc\.lock names\.|\d+ of them differ: run `dvc repro`\.", tree.caption)


def test_a_line_without_a_baseline_has_a_report_that_says_so(params: Params) -> None:
    alone = dataclasses.replace(params, train=dataclasses.replace(params.train, variants=("searched",)))
    some = parts("headline", alone)
    hidden = [part.text for part in some if isinstance(part, Note) and part.text.startswith("Not shown")]
    assert all("dvc.lock is missing" in text for text in hidden)  # no DVC ran here
    (figure,) = (part for part in some if isinstance(part, Figure))
    assert figure.caption.startswith("No baseline was trained.")
    assert [row[0] for row in tables(some)[0].rows] == ["searched"]
    assert {row[-1] for row in tables(parts("classes", alone))[0].rows} == {"not trained"}


def test_searches_that_do_not_pay_are_said_to(params: Params) -> None:
    own, other = paths.PREDICTIONS, paths.of_variant(paths.PREDICTIONS, "baseline")
    before = {file: file.read_bytes() for file in (own, other)}
    rows = read_rows(own)
    files.write_csv(own, [row | {"predicted": "another"} for row in rows])
    files.write_csv(other, [row | {"predicted": row["actual"]} for row in rows])
    said = notes(parts("headline", params))
    for file, content in before.items():
        file.write_bytes(content)
    assert "The searches did not pay on these data" in said


# --- what is not there


@pytest.mark.parametrize(
    ("place", "anchor", "kept"),
    [
        (paths.DISTRIBUTION, "augmentation", Pictures),
        (paths.TRAIN / "images.npy", "augmentation", Figure),
        (paths.FOUND_LOSS, "loss", Figure),
        (paths.SCORES, "architecture", Figure),
        (paths.MEASURED, "architecture", Figure),
        (paths.TEST / "images.npy", "classes", Table),
        (paths.VALIDATION, "data", Table),
    ],
)
def test_a_missing_file_is_one_sentence_and_the_rest_is_shown(
    params: Params, place: Path, anchor: str, kept: type[Part]
) -> None:
    with without(place):
        some = parts(anchor, params)
    writer = "python -m flows.ingest" if place == paths.VALIDATION else "dvc repro"
    assert f"{place} is missing; `{writer}` writes it." in notes(some)
    assert any(isinstance(part, kept) for part in some)


@pytest.mark.parametrize("content", [b"", b"trunk,copy\n0,copy_0\n", b"\xff\xfe", b"trunk\n"])
def test_a_damaged_file_is_one_sentence_and_the_rest_is_shown(params: Params, content: bytes) -> None:
    file = paths.LOSS_TRUNKS
    before = file.read_bytes()
    file.write_bytes(content)
    some = parts("loss", params)
    file.write_bytes(before)
    assert notes(some).count("is not as this version writes it") == 2  # the mean and the rewards
    assert sum(isinstance(part, Figure) for part in some) == 1


def test_a_page_without_any_result_but_the_data_can_be_read(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "prepared").mkdir(parents=True)
    for name in ("params.yaml", paths.STATISTICS):
        (tmp_path / name).write_bytes((workspace / name).read_bytes())
    with contextlib.chdir(tmp_path):
        assert command.main([]) == 0
        shown = Page(paths.REPORT.read_text())
    assert any(row[0] == NAMES[0] for row in shown.cells)
    assert shown.text.count("Not shown") > 15


def test_without_results_the_command_says_so_and_writes_nothing(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_bytes((workspace / "params.yaml").read_bytes())
    with contextlib.chdir(tmp_path):
        assert command.main([]) == 2
        assert not paths.REPORT.exists()
    assert capsys.readouterr().err.startswith("error: there are no results to report on; run `dvc repro`")


def test_lost_copies_a_control_and_a_frozen_search_are_said(params: Params) -> None:
    file = paths.AUGMENTATION_TRUNKS
    before, rows = file.read_bytes(), read_rows(file)
    place = next(place for place, row in enumerate(rows) if row["best"] == "False")
    rows[place] |= {"reward": "nan", "fault": "its weights are no longer finite"}
    files.write_csv(file, rows)
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"augmentation": {"frozen": True}}}))
    online = dataclasses.replace(params.augmentation.online, controller="null")
    control = dataclasses.replace(params, augmentation=dataclasses.replace(params.augmentation, online=online))
    said = notes(parts("augmentation", control))
    file.write_bytes(before)
    Path("dvc.yaml").unlink()
    assert f"1 reward of {len(rows)} lost" in said
    assert "its weights are no longer finite" in said
    assert "This is a control (controller null)" in said
    assert "its stage is frozen" in said


# --- the size


def test_large_images_many_classes_and_long_searches_stay_within_the_bound(params: Params) -> None:
    """Noise compresses worst; 1,000 classes, 300 trunks of 128 copies, 3,000 candidates."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (augmentation_report.STRIP, 320, 320, 3), dtype=np.uint8)
    policy = augmentation_report.Policy.from_json(files.read_json(paths.FOUND_AUGMENTATION))
    split = Split(images=noise, labels=np.arange(len(noise)))
    names = tuple(f"class {k}" for k in range(1000))
    strip = list(augmentation_report.policy_rows(policy, split, names, seed=1))
    mistakes = [picture(rng.integers(0, 256, (320, 320, 3), dtype=np.uint8), "") for _ in range(20)]
    trunks, best = np.repeat(np.arange(300), 128), np.arange(300 * 128) % 128 == 0
    rewards = figures.Rewards(trunks=trunks.tolist(), rewards=rng.normal(size=len(trunks)).tolist(), best=best.tolist())
    judged = [
        figures.Judged(stage=k % 20, potential=float(rng.random()), error=0.1, kept=k % 3 > 0) for k in range(3_000)
    ]
    drawn = [
        figures.confusion(rng.integers(0, 9, (1000, 1000)).astype(float), names),
        *[figures.rewards_by_trunk(rewards, dict.fromkeys(range(300), 0.5), "x")] * 2,
        figures.shares_by_trunk([f"operation {k}" for k in range(16)], rng.random((16, 301))),
        figures.mean_by_trunk([f"t {k}" for k in range(40)], rng.normal(size=(40, 300))),
        figures.pool_by_stage(judged, "likelihood"),
    ]
    size = sum(len(one.address) for row in [*strip, mistakes] for one in row)
    size += sum(len(inline(svg, "x")) for svg in drawn)
    assert size < LARGEST - 1_000_000  # the rest is text, and charts of what is few


def test_of_very_many_networks_some_are_drawn(params: Params) -> None:
    file = paths.SCORES
    before, row = file.read_bytes(), read_rows(paths.SCORES)[0]
    many = 2 * architecture_report.DRAWN + 1
    files.write_csv(file, [row | {"architecture": f"a|{k}", "latency_ms": 1 + k / many} for k in range(many)])
    figure = next(part for part in parts("architecture", params) if isinstance(part, Figure))
    file.write_bytes(before)
    assert f"({many:,})" in figure.caption
    assert "One in 3 is drawn." in figure.caption
    assert len(figure.svg) < 500_000


def test_examples_are_of_as_many_classes_as_there_are() -> None:
    labels = np.array([2, 2, 0, 1, 1, 0, 0, 2, 2])
    split = Split(images=np.zeros((9, 2, 2, 1), dtype=np.uint8), labels=labels)
    assert augmentation_report.examples(split).labels.tolist()[:3] == [0, 1, 2]
    assert len(augmentation_report.examples(split).labels) == 8


# --- what MLflow shows beside it


def test_every_stage_says_in_a_sentence_what_it_decided(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.chdir(workspace):
        said = {name: stage_notes.note(name, finished=True) for name in STAGES}
        found = read_json(paths.FOUND_ARCHITECTURE)
        most = max(read_json(paths.FOUND_AUGMENTATION)["operations"], key=lambda one: one["share"])
        metrics = {name: read_json(paths.of_variant(paths.METRICS, name)) for name in ("searched", "baseline")}
        planned = read_json(paths.PLANNED)["sentences"]
        taken = {one["factor"]: one["taken"] for one in read_json(paths.DECIDED)["decisions"]}
        loss_after = read_rows(paths.TRAINED / "baseline" / "epochs.csv")[-1]["loss"]
    assert caplog.records == []
    assert all(text.startswith("**") for text in said.values())
    assert f"For 5 ms: `{found['architecture'].replace('|', ' → ')}`, predicted " in said["architecture"]
    assert f"{most['operation']} {most['share']:.1%}" in said["augmentation"]
    assert "away from cross-entropy. Trunk 2: best reward " in said["loss"]
    assert f"Loss {float(loss_after):.4g} after 2 epochs" in said["train@baseline"]
    for name in ("searched", "baseline"):
        assert f"{metrics[name]['accuracy']:.2%} (" in said[f"evaluate@{name}"]
    assert "images of " in said["prepare"]
    assert "3 whole networks predicted to " in said["latency"]
    assert planned[0] in said["plan"]
    assert f"architecture {taken['architecture'].replace('|', ' → ')}" in said["race"]
    assert f"; loss {taken['loss']}" in said["race"]


def test_a_note_without_files_says_what_the_stage_does_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stage_notes.note("loss", finished=True) == stage_notes.note("loss", finished=False) == ROSTER["loss"].does
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("warning: MLflow is not told what loss found")


def test_the_charts_are_files_of_the_stages_they_are_about(params: Params) -> None:
    drawn = {(chart.stage, chart.name): chart.content for chart in charts.charts(make(params))}
    about = {stage for stage, _ in drawn}
    assert about == {None, "architecture", "augmentation", "loss", "train@searched", "evaluate@searched"}
    for (_, name), content in drawn.items():
        if name.endswith(".svg"):
            assert ElementTree.fromstring(content).tag.endswith("svg"), name
    sheet = Image.open(io.BytesIO(drawn["augmentation", "charts/images_under_the_policy.png"]))
    cell = SIDE + GAP
    assert (sheet.height + GAP) % cell == (sheet.width + GAP) % cell == 0
    assert (sheet.height + GAP) // cell == 1 + DRAWS
