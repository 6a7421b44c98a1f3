"""dvc.yaml lists the exact code of every stage: no more, no less than its import graph."""

from pathlib import Path

import grimp
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
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


def test_every_stage_comes_from_dvcs_run_cache_where_somebody_ran_it() -> None:
    """DVC keeps none with an output that it is told to persist: a deployment would search anew what was searched."""
    outs = {str(out) for stage in stages().values() for out in (*stage.get("outs", ()), *stage.get("metrics", ()))}
    assert outs
    assert not any("persist" in out or "cache: false" in out for out in outs)


def test_only_evaluate_reads_the_test_split() -> None:
    readers = {name for name, stage in stages().items() if "data/prepared/test" in stage["deps"]}
    assert readers == {"evaluate", "budget"}  # `budget` runs `evaluate` on a further budget's model


def test_no_stage_depends_on_an_orchestrator_or_a_tracker() -> None:
    for stage in stages():
        assert not {"flows/retrain.py", "flows/tracking/connection.py", "flows/publish.py"} & code_of(stage)
