"""Claims about the command line: every verb explains itself at once, and refuses in one sentence."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flows import commands
from flows.checkout.roster import ROSTER
from flows.settings import presets

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "mlflow", "prefect", "dvc", "numpy", "onnx", "pydantic", "yaml"}


def command(name: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    verb, *words = name.split()
    line = [sys.executable, *options, "-m", f"flows.{verb}", *words, *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_says_what_the_command_does_its_defaults_an_example_and_the_exit_codes(name: str) -> None:
    known = commands.COMMANDS[name]
    done = command(name, "--help", options=("-X", "importtime"))
    assert done.returncode == 0
    assert " ".join(known.does.split()) in " ".join(done.stdout.split())
    assert f"\nexample:\n  {known.example}\n" in done.stdout
    codes = dict(re.findall(r"^  (\d+) +(.+)$", done.stdout.partition("\nexit codes:\n")[2], re.MULTILINE))
    assert {int(code): when for code, when in codes.items()} == known.codes | {130: "interrupted by Ctrl-C"}
    options = re.findall(r"^  (--[a-z]+)[ A-Z]*\n?(.*?)(?=^  --|^\w)", done.stdout, re.MULTILINE | re.DOTALL)
    assert [option for option, said in options if "(default: " not in " ".join(said.split())] == []
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert imported & HEAVY == set(), "help waits for them"


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(name: str) -> None:
    done = command(name, "--no-such-option")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n]+; see `python -m flows\.[^`]+ --help`\n", done.stderr), done.stderr


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_example_is_one_that_the_command_takes(name: str) -> None:
    python, module, verb, *arguments = shlex.split(commands.COMMANDS[name].example)
    assert (python, module, verb) == ("python", "-m", f"flows.{name.split()[0]}")
    assert [word for word in name.split()[1:] if word not in arguments] == []
    commands.parse(name.split()[0], arguments)


def test_every_module_that_can_be_run_is_a_command() -> None:
    modules = {
        ".".join(file.relative_to(ROOT / "flows").with_suffix("").parts).removesuffix(".__main__")
        for file in (ROOT / "flows").rglob("*.py")
        if '\nif __name__ == "__main__":\n' in file.read_text()
    }
    modules.remove("runtime.processes")  # the guardian is no verb
    assert modules == {name for name in commands.COMMANDS if " " not in name}


def test_help_names_every_preset() -> None:
    assert presets().keys() <= set(re.findall(r"\w+", command("settings apply", "--help").stdout))


def test_every_stage_of_the_pipeline_is_one_that_the_stage_command_takes() -> None:
    words = set(re.findall(r"cmd: python -m flows.stage (\w+)", (ROOT / "dvc.yaml").read_text()))
    assert words == set(ROSTER)


def test_the_commands_are_listed_by_make_help() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [name for name in commands.COMMANDS if f"\n  {name}  " not in done.stdout] == []
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert done.stdout.startswith("make ")


def test_ctrl_c_is_one_sentence_and_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        commands.run(interrupted)
    assert end.value.code == 130
    assert capsys.readouterr().err == "error: interrupted; the same command again is safe\n"
