"""dvc.yaml lists the exact code of every stage: no more, no less than its import graph."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import grimp
import pytest
import yaml

from components.settings.planned import PLANNED
from components.settings.space import SearchSpace

ROOT = Path(__file__).resolve().parents[1]
SHARED = {"components/settings/require.py", "components/settings/variants.py", "components/settings/planned.py"}
"""Code of the settings that is no section."""
WATCHES_ONLY = {"components.progress", "flows.runtime.observer", "flows.runtime.processes"}
"""Imported by stages and unable to change their bytes."""


def stages() -> dict[str, dict[str, object]]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def code_of(stage: str) -> set[str]:
    """Files of every module that `flows.stages.<stage>` imports, directly or not."""
    graph = grimp.build_graph("components", "flows", cache_dir=None)
    module = f"flows.stages.{stage}"
    modules = {module} | graph.find_upstream_modules(module) - WATCHES_ONLY
    files = {ROOT / Path(*name.split(".")).with_suffix(".py") for name in modules}
    return {str(file.relative_to(ROOT)) for file in files if file.exists()}


@pytest.mark.parametrize("stage", sorted(stages()))
def test_a_stage_depends_on_the_code_it_imports_and_on_no_other(stage: str) -> None:
    listed = {dep for dep in stages()[stage]["deps"] if dep.endswith(".py")}
    assert listed == code_of(stage)


def sections_of(kind: type[Any]) -> set[str]:
    """Files of the settings that a dataclass has fields of, and of those that these have."""
    found = set()
    for one in (*get_args(kind), kind):
        if dataclasses.is_dataclass(one) and one.__module__.startswith("components.settings."):
            found |= {f"{base.__module__.replace('.', '/')}.py" for base in one.__mro__[:-1]}
        if dataclasses.is_dataclass(one):
            for hint in get_type_hints(one).values():
                found |= sections_of(hint)
    return found


@pytest.mark.parametrize("stage", sorted(stages()))
def test_a_stage_depends_on_the_sections_of_the_settings_that_it_reads_and_on_no_other(stage: str) -> None:
    """So that another word in one section makes only those stages stale that read it."""
    reads = importlib.import_module(f"flows.stages.{stage}").Reads
    listed = {str(dep) for dep in stages()[stage]["deps"] if str(dep).startswith("components/settings/")}
    table = {"components/settings/latency.py"} if "results/latency/table.json" in stages()[stage]["deps"] else set()
    assert listed - SHARED - table == sections_of(reads) - table  # the table says what it was measured on


@pytest.mark.parametrize("stage", sorted(stages()))
def test_the_settings_that_a_stage_is_given_are_those_that_dvc_compares(stage: str) -> None:
    reads = importlib.import_module(f"flows.stages.{stage}").Reads
    named = {field.name for field in dataclasses.fields(reads)}
    keys = {str(key) for key in stages()[stage]["params"]}
    spaces = {f"architecture.{field.name}" for field in dataclasses.fields(SearchSpace)}
    compared = {key.partition(".")[0] for key in keys - spaces - {"train.recipe"}}
    compared |= {"space"} if spaces <= keys else set()
    compared |= {"recipe"} if "train.recipe" in keys and "train" not in compared else set()
    if stage == "plan":  # it reads the space, and what is left open, in the settings of whole sections
        named -= {"unstated", "recipe"}
        compared = {*compared, "latency"} - {"train", "recipe"}
    if "architecture" in named:
        named.discard("space")
    # `parallel` never changes a result; who reads the latency table depends on the file, and on no setting of it
    assert named - {"parallel", "latency"} == compared - {"latency"}


def test_the_architecture_search_depends_on_no_reward_of_the_other_searches() -> None:
    assert not [dep for dep in stages()["architecture"]["deps"] if "/online/" in str(dep)]


def test_every_stage_comes_from_dvcs_run_cache_where_somebody_ran_it() -> None:
    """DVC keeps none with an output that it is told to persist: a deployment would search anew what was searched."""
    outs = {str(out) for stage in stages().values() for out in (*stage.get("outs", ()), *stage.get("metrics", ()))}
    assert outs
    assert not any("persist" in out or "cache: false" in out for out in outs)


def test_only_evaluate_reads_the_test_split() -> None:
    readers = {name for name, stage in stages().items() if "data/prepared/test" in stage["deps"]}
    assert readers == {"evaluate"}


def test_no_stage_depends_on_an_orchestrator_or_a_tracker() -> None:
    for stage in stages():
        assert not {"flows/retrain.py", "flows/tracking/connection.py", "flows/publish.py"} & code_of(stage)


@pytest.mark.parametrize("stage", sorted(stages()))
def test_a_stage_depends_on_what_the_plan_chose_of_the_settings_that_it_reads_and_on_no_other(stage: str) -> None:
    reads = {field.name for field in dataclasses.fields(importlib.import_module(f"flows.stages.{stage}").Reads)}
    reads |= {"space"} if "architecture" in reads else set()
    reads |= {"recipe"} if "train" in reads else set()
    listed = {Path(str(dep)).stem for dep in stages()[stage]["deps"] if str(dep).startswith("results/plan/")}
    wanted = set() if stage == "plan" else reads & PLANNED.keys()
    assert listed - {"speeds"} == wanted
