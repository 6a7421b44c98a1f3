"""The roster says of every stage what commands, progress, notes and the report ask, and of no other."""

import importlib
import inspect
import re
from typing import Any

import pytest
import yaml

from flows.checkout.roster import FIGURES, ROSTER, word_of
from flows.report.charts import stage_of
from flows.report.notes import FINDS
from flows.report.page import SECTIONS
from tests.clones import ROOT

PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_it_has_the_stages_of_dvc_yaml_in_their_order() -> None:
    assert list(ROSTER) == list(PIPELINE)


@pytest.mark.parametrize("word", ROSTER)
def test_a_row_agrees_with_the_stage(word: str) -> None:
    stage, entry = ROSTER[word], PIPELINE[word]
    taken = list(inspect.signature(importlib.import_module(f"flows.stages.{word}").run).parameters)
    assert ("variant" in taken) == (stage.variants is not None) == ("matrix" in entry)
    assert ("checkpoint" in taken) == stage.resumes
    assert not stage.variants or entry["matrix"]["variant"] == f"${{{stage.variants}}}"
    assert stage.does.endswith(".")


def test_notes_and_sections_are_of_stages_that_there_are() -> None:
    assert FINDS.keys() <= ROSTER.keys()
    sections = {section.anchor for section in SECTIONS}
    assert {stage.section for stage in ROSTER.values() if stage.section} <= sections
    stages = {stage_of(section) for section in sections} - {None}
    assert {word_of(name) for name in stages if name} == {word for word, stage in ROSTER.items() if stage.section}


def test_a_figure_is_one_stages_alone() -> None:
    for name in ("prepare/images/train", "loss/reward/best", "evaluate/budget_2/accuracy"):
        assert sum(re.fullmatch(figure.metric, name) is not None for figure in FIGURES) == 1
