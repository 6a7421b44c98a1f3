"""Records that wait on disk are all there for the next process, and for nobody while their own process lives."""

from pathlib import Path

import pytest

from flows import spool
from flows.spool import Spool, left_behind


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mlflow" / "spool"


def test_what_was_not_taken_is_left_for_the_next_process_and_only_that() -> None:
    waiting = Spool("a", {"name": "loss"})
    waiting.add({"metrics": 1})
    waiting.clear()
    waiting.add({"metrics": 2})
    assert list(left_behind()) == [], "its process lives"
    waiting.close()
    assert list(left_behind()) == [("a", {"name": "loss"}, [{"metrics": 2}])]


def test_what_was_taken_is_gone_and_what_was_not_stays(folder: Path) -> None:
    for run in ("a", "b"):
        waiting = Spool(run, {"name": run})
        waiting.add({"file": str(waiting.copy(Path(__file__)))})
        waiting.close()
    handed_over = left_behind()
    assert [next(handed_over)[0], next(handed_over)[0]] == ["a", "b"]
    with pytest.raises(ConnectionError):
        handed_over.throw(ConnectionError)
    assert {file.name for file in folder.iterdir()} == {"b", "b.jsonl", "b.lock"}
    assert [run for run, _, _ in left_behind()] == ["b"]
    assert list(folder.iterdir()) == []


def test_a_run_whose_records_were_all_taken_leaves_nothing(folder: Path) -> None:
    waiting = Spool("a", {})
    waiting.add({"metrics": 1})
    waiting.clear()
    waiting.close()
    assert list(folder.iterdir()) == []


def test_a_line_that_was_cut_off_costs_itself_alone(folder: Path) -> None:
    """A full disk took half a record, and later whole ones again."""
    waiting = Spool("a", {"name": "loss"})
    for step in range(3):
        waiting.add({"step": step})
    waiting.close()
    file = folder / "a.jsonl"
    file.write_text(file.read_text().replace('{"step": 1}', '{"st'))
    assert spool.read(file) == [{"name": "loss"}, {"step": 0}, {"step": 2}]


def test_a_header_that_is_there_twice_is_no_record(folder: Path) -> None:
    """A full disk let neither through at first, and then both."""
    waiting = Spool("a", {"name": "loss"})
    waiting.add({"step": 0})
    waiting.empty = True
    waiting.add({"step": 1})
    waiting.close()
    assert list(left_behind()) == [("a", {"name": "loss"}, [{"step": 0}, {"step": 1}])]
