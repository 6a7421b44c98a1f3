"""No number in the documentation is typed by hand."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmarks import harness


def test_every_table_agrees_with_its_result_file() -> None:
    for page in harness.pages():
        assert harness.with_tables(page.read_text()) == page.read_text(), f"{page}: run `make tables`"


@pytest.mark.parametrize("path", sorted(harness.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_result_file_has_its_protocol_and_one_row_a_measurement(path: Path) -> None:
    result = json.loads(path.read_text())
    assert result["name"] == path.stem
    assert set(result["protocol"]) == {"commit", "hardware", "versions", "seeds", "date", "command"}
    assert result["rows"]
    assert len({tuple(row) for row in result["rows"]}) == 1, "every row has the same keys"
    assert harness.benchmark(path.stem).table(result["rows"])


def test_a_stale_table_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"preset": "digits", "seed": 1, "wall_seconds": 2.0, "cpu_seconds": 3.0}
    rows = [row | {"driver": driver} for driver in ("bare", "dvc", "flow")]
    protocol = {"commit": "abc", "hardware": "x", "versions": {"torch": "2"}, "seeds": [1], "date": "d", "command": "c"}
    (tmp_path / "line_overhead.json").write_text(
        json.dumps({"name": "line_overhead", "protocol": protocol, "rows": rows})
    )
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    new = harness.with_tables("before\n<!-- table: line_overhead -->\n| stale |\n<!-- end -->\nafter")
    assert new.startswith("before\n<!-- table: line_overhead -->\n| preset |")
    assert "stale" not in new
    assert new.endswith("\n<!-- end -->\nafter")
    assert harness.with_tables(new) == new


def test_a_table_without_a_result_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    new = harness.with_tables("<!-- table: line_overhead -->\n| stale |\n<!-- end -->")
    assert new == "<!-- table: line_overhead -->\nNot measured yet: `make bench NAME=line_overhead`.\n<!-- end -->"


def test_a_benchmark_that_writes_into_the_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[harness.Row]:
        yield {"seed": 1}
        (tmp_path / "params.yaml").write_text("mine")

    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name, value in {"ROOT": tmp_path, "RESULTS": tmp_path, "protocol_of": lambda *_: {}}.items():
        monkeypatch.setattr(harness, name, value)
    monkeypatch.setattr(harness, "benchmark", lambda name: SimpleNamespace(SEEDS=(1,), rows=rows))
    with pytest.raises(RuntimeError, match=r"nothing of the checkout but x\.json, and params\.yaml was added"):
        harness.measure("x")
    assert json.loads((tmp_path / "x.json").read_text())["rows"] == [{"seed": 1}]
