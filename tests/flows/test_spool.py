"""Records that wait on disk are all there for the next process, and for nobody while their own process lives."""

from pathlib import Path

import pytest

from flows.tracking import spool
from flows.tracking.spool import Spool, leftovers


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mlflow" / "spool"


def test_what_was_not_taken_is_left_for_the_next_process_and_only_that() -> None:
    waiting = Spool("a", {"name": "loss"})
    waiting.add({"metrics": 1})
    waiting.clear()
    waiting.add({"metrics": 2})
    assert list(leftovers()) == [], "its process lives"
    waiting.close()
    (left,) = leftovers()
    assert (left.run, left.header, left.records) == ("a", {"name": "loss"}, [{"metrics": 2}])


def test_what_was_taken_is_gone_and_what_was_not_stays(folder: Path) -> None:
    for run in ("a", "b"):
        waiting = Spool(run, {"name": run})
        waiting.add({"file": str(waiting.copy(Path(__file__)))})
        waiting.close()
    for left in leftovers():
        if left.run == "b":
            left.delete()
    assert {file.name for file in folder.iterdir()} == {"a", "a.jsonl", "a.lock"}
    for left in leftovers():
        assert left.run == "a"
        left.delete()
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
    (left,) = leftovers()
    assert (left.header, left.records) == ({"name": "loss"}, [{"step": 0}, {"step": 1}])


def test_a_copy_that_fails_is_in_nobodys_way(tmp_path: Path) -> None:
    """A full disk took the folder, and not the file."""
    waiting = Spool("a", {"name": "loss"})
    with pytest.raises(FileNotFoundError):
        waiting.copy(tmp_path / "missing.csv")
    assert waiting.copy(Path(__file__)).read_bytes() == Path(__file__).read_bytes()
