"""The pages as a newcomer reads them: every command is run, in order, on a folder of coloured shapes.

A block of `yaml` is what the reader writes into params.yaml, a block of `sh` what they type; what a block prints begins
its lines with the words that the page shows. The clone's presets are tests/tiny.yaml: the mechanisms, no quality; what
the line computed with them is in DVC's cache, so that the first command computes nothing again. What
is changed or left out of the commands is in `CHANGED`, of the settings in `SETTINGS`, with the reason.
"""

import ast
import contextlib
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image, ImageDraw

from components.data.images import decode, to_array
from components.shipping.evaluation import onnx_logits
from tests.clones import ROOT, environment, fresh_clone, run
from tests.flows.receiver import receiver
from tests.line_cache import put_tiny_cache
from tests.servers import free_port

pytestmark = pytest.mark.timeout(1800)  # the fixture's time counts for the first test

RUN = ("README.md", "docs/production.md", "docs/data.md", "CONTRIBUTING.md")
"""The pages whose commands are run, in this order, in one clone."""
PORTS = {"4200": free_port(), "5000": free_port(), "5001": free_port()}
"""Of the pages -> of this run: another run may have theirs."""
SETTINGS = {
    "latency_ms": 5.0,  # a shared machine is no place to be refused for its noise
    "epochs": 3,
}
CHANGED = [
    # (command, what is run instead, why)
    (r"^make ui$", "serve http://127.0.0.1:5000/health make ui", "ends with Ctrl-C: started here, ended at the end"),
    (r"^prefect server start (.*)$", r"serve http://127.0.0.1:4200/api/health prefect server start \1 --port 4200", ""),
    (r"^mlflow models serve (.*)$", r"serve http://127.0.0.1:5001/ping mlflow models serve \1", ""),
    (r"^prefect worker start (.*)$", r"prefect worker start --run-once \1", "looks for runs once, and ends"),
    (r"^python -m flows.classify ", "python -m flows.classify --url http://127.0.0.1:5001 ", "for the other port"),
    (r"^python -m flows.deploy$", "python -m flows.deploy || [ $? = 3 ]", "3: nothing to do, as the page says"),
    (r"^git checkout <commit>$", "git checkout HEAD", "the reader's commit"),
    (r"^.* --reproduce$", "", "computes the line once more; tests/test_line.py does"),
    (r"^make (test|check|bench.*)$", "", "runs this test"),
    (r"^.venv/bin/pre-commit install$", "", "test_the_hooks_pass runs them"),
]
PRELUDE = """
set -euo pipefail
serve() {  # address, command: in the background, once it answers
  local address=$1; shift
  setsid "$@" > server.log 2>&1 &
  echo $! >> ../servers
  for _ in $(seq 300); do
    curl --silent --fail --output /dev/null "$address" && return
    kill -0 $! || break
    sleep 0.5
  done
  cat server.log; return 1
}
[ ! -e ../exported ] || source ../exported
"""
IDENTITY = {"user.name": "Ada", "user.email": "ada@localhost"}


@dataclass
class Block:
    """A fenced block of a page; of `sh` with what it printed."""

    page: str
    kind: str
    text: str
    printed: str = ""

    def lines(self) -> list[str]:
        """Without what they say to the reader."""
        return [re.sub(r"\s+# .*", "", line) for line in self.text.splitlines()]

    def commands(self) -> str:
        """As they are run here."""
        lines = self.lines()
        for pattern, instead, _ in CHANGED:
            lines = [re.sub(pattern, instead, line) for line in lines]
        text = "\n".join(lines)
        for port, ours in PORTS.items():
            text = text.replace(port, str(ours))
        return text


def blocks_of(page: str) -> list[Block]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [Block(page=page, kind=kind, text=text) for kind, text in fences]


def draw_shapes(root: Path, count: int) -> None:
    """`count` images each of circle, square and triangle: 32 pixels, coloured, half of them JPEG, half PNG."""
    rng = random.Random(1)
    for index in range(3 * count):
        name, image = ("circle", "square", "triangle")[index % 3], Image.new("RGB", (32, 32), colour(rng))
        radius = rng.randint(5, 10)
        x, y = (rng.randint(radius, 31 - radius) for _ in range(2))
        left, top, right, bottom = x - radius, y - radius, x + radius, y + radius
        draw, inside = ImageDraw.Draw(image), colour(rng)
        if name == "circle":
            draw.ellipse((left, top, right, bottom), fill=inside)
        elif name == "square":
            draw.rectangle((left, top, right, bottom), fill=inside)
        else:
            draw.polygon([(x, top), (left, bottom), (right, bottom)], fill=inside)
        file = root / name / f"{index}.{'jpg' if index % 2 else 'png'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)


def colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


@dataclass
class Reader:
    """Somebody at a shell in a fresh clone, with the environment installed."""

    clone: Path
    blocks: list[Block] = field(default_factory=list)

    def read(self, page: str) -> None:
        for block in blocks_of(page):
            if block.kind == "yaml":
                self.edit(yaml.safe_load(block.text))
            elif block.kind == "sh":
                self.type(block)
            self.blocks.append(block)

    def edit(self, settings: dict[str, Any]) -> None:
        """Write the page's settings into params.yaml."""
        file = self.clone / "params.yaml"
        values = yaml.safe_load(file.read_text())
        for section, own in settings.items():
            values[section] |= {name: SETTINGS.get(name, value) for name, value in own.items()}
        values["data"]["size"] = None  # as in the presets: the plan sees it in the photos
        file.write_text(yaml.safe_dump(values))

    def type(self, block: Block) -> None:
        script = f"{PRELUDE}{block.commands()}\nexport -p > ../exported\n"
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=self.clone, env=shell(self.clone), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            block.printed, said = process.communicate()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        assert process.returncode == 0, f"{block.page}:\n{block.text}\n{block.printed[-3000:]}\n{said[-5000:]}"


def shell(clone: Path) -> dict[str, str]:
    clean = {name: value for name, value in environment(clone).items() if not re.match("MLFLOW_|PREFECT_API", name)}
    git = {"GIT_CONFIG_COUNT": str(len(IDENTITY))}
    for index, (key, value) in enumerate(IDENTITY.items()):
        git |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    servers = {"MLFLOW_PORT": str(PORTS["5000"]), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return clean | git | servers | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600"}  # a shared machine


def install(clone: Path) -> None:
    """This environment, as `make` would have made it."""
    (clone / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != "ready":
            (clone / ".venv" / entry.name).symlink_to(entry)
    (clone / ".venv" / "ready").touch()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """After every page was read and every command typed."""
    home = tmp_path_factory.mktemp("newcomer")
    (home / "line").mkdir()
    clone = fresh_clone(home / "line")
    tiny = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
    tiny |= {"publish": {"model": "digits"}}
    for file in (clone / "params.yaml", clone / "flows" / "presets" / "digits.yaml"):
        file.write_text(yaml.safe_dump(tiny))
    subprocess.run(["git", "commit", "-qam", "tiny"], cwd=clone, env=shell(clone), check=True)
    put_tiny_cache(clone, tmp_path_factory)
    install(clone)
    draw_shapes(home / "shapes", 60)
    shutil.copy(home / "shapes" / "circle" / "3.jpg", clone / "circle.jpg")
    shutil.copy(home / "shapes" / "square" / "4.png", clone / "square.png")
    with servers_ended(home / "servers"):
        reader = Reader(clone)
        for page in RUN:
            reader.read(page)
        yield reader


@contextlib.contextmanager
def servers_ended(listed: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for group in listed.read_text().split() if listed.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(group), signal.SIGTERM)


def beginnings(text: str) -> list[str]:
    """The first word of every line, whatever its number."""
    return [re.sub(r"\d+", "#", line.split()[0]) for line in text.splitlines() if line.split()]


def test_every_command_of_the_pages_works_and_prints_what_the_page_shows(reader: Reader) -> None:
    shown = 0
    for typed, printed in pairwise(reader.blocks):
        if (typed.kind, printed.kind) == ("sh", ""):
            missing = [word for word in beginnings(printed.text) if word not in (*beginnings(typed.printed), "...")]
            assert missing == [], f"{typed.page}: {typed.text}prints\n{typed.printed}"
            shown += 1
    assert shown >= 6


def printed_by(reader: Reader, command: str) -> str:
    (found,) = [block.printed for block in reader.blocks if block.kind == "sh" and command in block.text]
    return found


def test_metrics_and_plots_are_shown(reader: Reader) -> None:
    assert "accuracy" in printed_by(reader, "dvc metrics show")
    assert (reader.clone / "dvc_plots" / "index.html").stat().st_size > 10_000


def test_the_served_champion_gives_the_class_that_the_registered_file_computes(reader: Reader) -> None:
    """Version 1, since version 2 was rolled back; its bytes are in DVC's cache."""
    client = MlflowClient(f"sqlite:///{reader.clone}/mlflow/store/mlflow.db")
    md5 = client.get_model_version_by_alias("shapes", "champion").tags["md5"]
    model = (reader.clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_bytes()
    files = ("circle.jpg", "square.png")
    images = np.stack([to_array(decode((reader.clone / file).read_bytes()), 32, 3) for file in files])
    names = [("circle", "square", "triangle")[index] for index in onnx_logits(model, images).argmax(axis=1)]
    answers = [line.split() for line in printed_by(reader, "flows.classify").splitlines()]
    assert [(file, name) for file, name, _ in answers] == list(zip(files, names, strict=True))


def pages() -> list[Path]:
    return [page for folder in ("", "docs/", "components/*/", "mlflow/") for page in sorted(ROOT.glob(f"{folder}*.md"))]


def test_every_page_with_commands_is_run() -> None:
    with_commands = {
        str(page.relative_to(ROOT))
        for page in pages()
        if any(block.kind in ("sh", "bash", "console", "shell") for block in blocks_of(str(page.relative_to(ROOT))))
    }
    assert with_commands == set(RUN)
    typed = [line for page in RUN for block in blocks_of(page) for line in block.lines()]
    assert [pattern for pattern, _, _ in CHANGED if not any(re.match(pattern, line) for line in typed)] == []


# ---------------------------------------------------------------- what the pages say


PRINTED_BY = (
    "dvc/lock.py",
    "dvc/rwlock.py",
    "mlflow/store/db/utils.py",
    "prefect/cli/server.py",
    "prefect/client/orchestration/__init__.py",
    "prefect/server/api/server.py",
)
"""The tools' files with the sentences that docs/troubleshooting.md has of them."""
BETWEEN = re.compile(r"…|: | \(|\), |\)?; |\s{2,}|^GAP |^MISMATCH |^WARNING: ")
"""Where a sentence may be put together of pieces."""


def constants(file: Path) -> str:
    """Every piece of text in a Python file; of a formatted one what stands between its values."""
    tree = ast.parse(file.read_text())
    found = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(value for value in found if isinstance(value, str))


def what_arrow_says(folder: Path) -> str:
    """Of a shard of data/raw that somebody edited; the sentence is in its binary."""
    (folder / "images-0.parquet").write_text("edited")
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - what it says is what is asked
        pyarrow.dataset.dataset(folder / "images-0.parquet", format="parquet")
    return str(refused.value)


def test_every_sentence_of_the_troubleshooting_page_is_one_that_is_printed(tmp_path: Path) -> None:
    """In our sources or the tool's: not all of the failures were brought about."""
    ours = [*ROOT.glob("flows/**/*.py"), *ROOT.glob("components/**/*.py")]
    tools = [Path(sysconfig.get_path("purelib")) / name for name in PRINTED_BY]
    known = [*map(constants, [*ours, *tools]), (ROOT / "Makefile").read_text(), what_arrow_says(tmp_path)]
    printed = "\n".join([*known, os.strerror(errno.ENOSPC)])
    rows = re.findall(r"^\| `(.*?)` \| ", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    pieces = {row: [piece.strip() for piece in BETWEEN.split(row) if len(piece.strip()) > 5] for row in rows}
    assert len(rows) > 25
    assert all(pieces.values())
    assert {row: unknown for row in rows if (unknown := [piece for piece in pieces[row] if piece not in printed])} == {}


def test_every_test_that_the_page_of_faults_names_is_there() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "faults.md").read_text())
    defined = set(
        re.findall(r"^def (test_\w+)", "".join(map(Path.read_text, ROOT.glob("tests/**/*.py"))), re.MULTILINE)
    )
    assert len(named) > 25
    assert [name for name in named if name not in defined] == []


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in pages():
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            place = (page.parent / path) if path else page
            assert place.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in anchors, f"{page.name}: {target}"


def test_a_prefect_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    clone = fresh_clone(tmp_path, ROOT / "tests" / "tiny.yaml")
    address = f"http://127.0.0.1:{free_port()}/api"
    done = run(clone, "-m", "flows.retrain", check=False, PREFECT_API_URL=address)
    assert done.returncode == 1
    said = f"error: Prefect cannot be used (Failed to reach API at {address}/); start that server, or unset "
    assert [line for line in done.stderr.splitlines() if line.startswith(said)]
    assert "Traceback" not in done.stderr


def test_a_prefect_server_that_wants_a_password_is_one_sentence(tmp_path: Path) -> None:
    clone = fresh_clone(tmp_path, ROOT / "tests" / "tiny.yaml")
    with receiver(status=401) as (address, _):
        done = run(clone, "-m", "flows.retrain", check=False, PREFECT_API_URL=address)
    assert done.returncode == 1
    said = r"error: Prefect cannot be used \(.*401 Unauthorized.*\); see PREFECT_API_URL and PREFECT_API_AUTH_STRING"
    assert [line for line in done.stderr.splitlines() if re.fullmatch(said, line)], done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- the hooks of pre-commit


def test_the_hooks_are_valid_need_no_network_and_pass(tmp_path: Path) -> None:
    """mypy and import-linter run in `make lint`, before the tests."""
    hooks = ROOT / ".pre-commit-config.yaml"
    assert {repo["repo"] for repo in yaml.safe_load(hooks.read_text())["repos"]} == {"local"}
    clone = fresh_clone(tmp_path)
    install(clone)
    own = shell(clone) | {"PRE_COMMIT_HOME": str(tmp_path / "home"), "SKIP": "mypy,lint-imports"}
    program = str(Path(sys.executable).with_name("pre-commit"))
    for arguments in (["validate-config", hooks.name], ["run", "--all-files"]):
        done = subprocess.run([program, *arguments], cwd=clone, env=own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(.+?)\.+(\(.*\))?(\w+)$", done.stdout, re.MULTILINE) == [
        ("ruff check", "", "Passed"),
        ("ruff format", "", "Passed"),
        ("mypy --strict", "", "Skipped"),
        ("import-linter", "", "Skipped"),
    ]
