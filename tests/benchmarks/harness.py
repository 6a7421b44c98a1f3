"""What every benchmark shares: rows in, a result file out, its table in the documentation.

A result file is `results/<name>.json`: `{"name", "protocol": {...}, "rows": [{...}]}`, one row a measurement.
"""

import importlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Protocol

from tests.checkout import Watch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
MEASURED_WITH = ("torch", "onnxruntime-gpu", "dvc", "prefect", "mlflow", "numpy")
PAGES = ("README.md", "docs/*.md", "components/**/README.md", "mlflow/README.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = Mapping[str, object]


class Benchmark(Protocol):
    """A module of this package: `SEEDS`, `rows` and `table`."""

    SEEDS: tuple[int, ...]

    def rows(self) -> Iterator[Row]:
        """Measure, one row at a time."""
        ...

    def table(self, rows: Sequence[Row]) -> str:
        """The Markdown table that the documentation shows."""
        ...


def benchmark(name: str) -> Benchmark:
    """The module `tests.benchmarks.<name>`."""
    return importlib.import_module(f"tests.benchmarks.{name}")  # type: ignore[return-value]


def measure(name: str) -> Path:
    """Run a benchmark and write its result file, whole or not at all.

    Raises RuntimeError, after that, if the benchmark changed anything else of the checkout.
    """
    chosen, watch = benchmark(name), Watch(ROOT)
    protocol = protocol_of(name, chosen.SEEDS)  # before: the commit that was measured
    rows = []
    for row in chosen.rows():
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        rows.append(row)
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"name": name, "protocol": protocol, "rows": rows}, indent=1) + "\n")
    temporary.replace(path)
    if foreign := [str(change) for change in watch.compare() if ROOT / change.path != path]:
        raise RuntimeError(f"a benchmark writes nothing of the checkout but {path.name}, and {', '.join(foreign)}")
    return path


def protocol_of(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    return {
        "commit": git("rev-parse", "HEAD")
        + ("+changes" if git("status", "--porcelain", "components", "flows") else ""),
        "hardware": hardware(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in MEASURED_WITH},
        "seeds": list(seeds),
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"make bench NAME={name}",
    }


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def hardware() -> str:
    """Processor and usable cores; no host name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.machine()}, {cores} cores"


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def with_tables(text: str) -> str:
    """The page with each `<!-- table: NAME --> ... <!-- end -->` block written anew from its result file."""
    return BLOCK.sub(lambda match: f"{match[1]}{block(match['name'])}\n{match[3]}", text)


def block(name: str) -> str:
    """A table and the line that says how it was measured; before there is a result, how to get one."""
    if not (RESULTS / f"{name}.json").exists():
        return f"Not measured yet: `make bench NAME={name}`."
    measured = result(name)
    protocol = measured["protocol"]
    seeds = ", ".join(map(str, protocol["seeds"]))
    how = f"`{protocol['command']}`, seeds {seeds}, commit {protocol['commit'][:10]}, {protocol['hardware']}"
    when = f"torch {protocol['versions']['torch']}, {protocol['date']}"
    return f"{benchmark(name).table(measured['rows'])}\n\n{how}, {when}."


def pages() -> list[Path]:
    return sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})


def write_tables() -> list[Path]:
    """Bring every page up to date; returns those that changed."""
    changed = []
    for page in pages():
        text = page.read_text()
        if (new := with_tables(text)) != text:
            page.write_text(new)
            changed.append(page)
    return changed


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """`mean +- standard deviation`, or the value itself when there is one."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["run", name]:
            print(measure(name).relative_to(ROOT))
        case ["tables"]:
            print("\n".join(str(page.relative_to(ROOT)) for page in write_tables()) or "every table is up to date")
        case _:
            names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if "def rows" in path.read_text())
            print(f"usage: make bench NAME=<{'|'.join(names)}>, or make tables", file=sys.stderr)
            return 2
    return 0
