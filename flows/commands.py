"""Define the command line: the arguments of every `python -m flows.<verb>`, and its text for --help.

No library is imported here, and a verb parses its arguments before it imports its own libraries, so that --help and a
refused argument do not wait for torch, MLflow or Prefect.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from flows.checkout import paths
from flows.checkout.roster import ROSTER
from flows.runtime import environment

MODEL_SERVED_AT = "http://127.0.0.1:5001"
"""Address at which docs/production.md serves the champion."""
WIDTH = 78
"""Width of a description, in columns."""
INTERRUPTED = "\n  130  interrupted by Ctrl-C"

Parser = argparse.ArgumentParser


def add_no_arguments(parser: Parser) -> None:
    """Add no arguments."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A verb, or a word below a verb."""

    does: str
    """Description; a list of the commands shows its first sentence."""
    example: str
    codes: dict[int, str]
    """Exit code -> when it is returned. Exit code 1 with a traceback is a bug of ours, in every verb."""
    settings: str = ""
    """The settings in params.yaml that it depends on."""
    arguments: Callable[[Parser], None] = add_no_arguments

    def epilog(self) -> str:
        settings = f"settings in params.yaml:\n  {self.settings}\n\n" if self.settings else ""
        codes = "".join(f"\n  {code:<4} {when}" for code, when in self.codes.items())
        return f"{settings}example:\n  {self.example}\n\nexit codes:{codes}{INTERRUPTED}"

    def summary(self) -> str:
        return self.does.partition(". ")[0].rstrip(".")


# ---------------------------------------------------------------- arguments, a function a verb


def add_apply_arguments(parser: Parser) -> None:
    parser.add_argument("preset", help="a file of flows/presets without its ending: digits, cifar10")
    parser.add_argument(
        "--force",
        action="store_true",
        help="also if params.yaml was edited, which is kept as params.yaml.1, .2, ... (default: refuse)",
    )


def add_ingest_arguments(parser: Parser) -> None:
    parser.add_argument("--params", type=Path, default=paths.PARAMS, help="settings file (default: %(default)s)")
    help_text = "split this class's images as if none had a split yet; may be given several times (default: no class)"
    parser.add_argument("--split-anew", metavar="CLASS", action="append", default=[], help=help_text)


def add_stage_arguments(parser: Parser) -> None:
    parser.add_argument("word", choices=ROSTER, help=", ".join(ROSTER), metavar="stage")
    named = "; ".join(f"of {word}: one of {stage.variants}" for word, stage in ROSTER.items() if stage.variants)
    parser.add_argument("variant", nargs="?", help=f"{named} in params.yaml; else none")


def add_rollback_arguments(parser: Parser) -> None:
    parser.add_argument("--reason", default="", help="why; kept on the version that is taken back (default: none)")
    parser.add_argument("--by", help="who (default: git's user.name, else the login name)")


def add_audit_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    help_text = (
        "also compute the model anew, in a temporary folder, and compare its md5 (default: compare records only)"
    )
    parser.add_argument("--reproduce", action="store_true", help=help_text)


def add_classify_arguments(parser: Parser) -> None:
    parser.add_argument("images", nargs="+", type=Path, help="image files of any common format")
    parser.add_argument("--url", default=MODEL_SERVED_AT, help="of `mlflow models serve` (default: %(default)s)")


COMMANDS: Mapping[str, Command] = {
    "settings": Command(
        does="Choose the settings of the line.",
        example="python -m flows.settings apply digits",
        codes={0: "done", 2: "refused; one sentence says why"},
    ),
    "settings apply": Command(
        does="Replace params.yaml by a whole preset.",
        example="python -m flows.settings apply cifar10 --force",
        codes={0: "done", 2: "refused: no such preset, or params.yaml was edited"},
        arguments=add_apply_arguments,
    ),
    "ingest": Command(
        does="Make the sound images of the data source the current data version. What was turned away is listed with "
        "its reason in data/raw/validation.json. Whatever stops it leaves whole data, the old or the new.",
        example="python -m flows.ingest",
        codes={0: "done", 2: "the source or the settings were refused, or DVC failed; one sentence says which"},
        settings="data, train.recipe.batch_size",
        arguments=add_ingest_arguments,
    ),
    "stage": Command(
        does="Run one stage of dvc.yaml, whether or not it is out of date. Use `dvc repro` unless you want that.",
        example="python -m flows.stage train searched",
        codes={
            0: "done",
            1: "a bug, with its traceback",
            2: "bad input, or the disk is full",
            4: "an input changed while the stage ran",
            143: "ended by SIGTERM",
        },
        settings="the stage's own section; dvc.yaml lists what each depends on",
        arguments=add_stage_arguments,
    ),
    "retrain": Command(
        does="Do everything: ingest, every stage that is out of date, gate, publish, report. What is up to date is not "
        "repeated; interrupted, it goes on where it was.",
        example="python -m flows.retrain",
        codes={
            0: "published, or champion already",
            1: "a stage failed, or the registry or Prefect cannot be used",
            2: "bad input, or what the line needs cannot be used; asked before the first image is read",
            3: "refused by the gate",
            4: "an input changed while a stage ran",
            5: "another retrain is running here",
            143: "ended by SIGTERM",
        },
        settings="all of params.yaml",
    ),
    "publish": Command(
        does="Judge the model in results/ and put it into service if the gate allows. Either way it is registered.",
        example="python -m flows.publish",
        codes={
            0: "published, or champion already",
            1: "the registry cannot be used",
            2: "bad input",
            3: "refused by the gate",
        },
        settings="gate, publish, budget.latency_ms, latency, architecture.max_file_bytes, evaluate.repeats, seed, "
        "threads",
    ),
    "publish rollback": Command(
        does="Put the champion's predecessor back into service. What was taken back is not published again by itself.",
        example='python -m flows.publish rollback --reason "wrong on night images"',
        codes={
            0: "rolled back",
            1: "the registry cannot be used",
            2: "there is nothing to go back to",
            130: "interrupted; see which version is champion before you repeat it",
        },
        settings="publish.model",
        arguments=add_rollback_arguments,
    ),
    "audit": Command(
        does="Check a registered model's whole history, byte by byte, down to the images. The same as a page, "
        "lineage.html, is kept on its MLflow run.",
        example="python -m flows.audit models:/digits@champion",
        codes={
            0: "everything is as recorded",
            1: "something differs or is missing, each named; or the registry cannot be used",
            2: "no such model",
            143: "ended by SIGTERM",
        },
        arguments=add_audit_arguments,
    ),
    "report": Command(
        does="Write results/report.html from the results in this folder. It is one file that needs no network; what "
        "was not run or not recorded is said there in a sentence. `python -m flows.retrain` and `python -m "
        "flows.publish` write it too.",
        example="python -m flows.report",
        codes={0: "written", 2: "bad input"},
        settings="all of params.yaml",
    ),
    "classify": Command(
        does="Ask a served champion for the class of images: file, class, probability.",
        example="python -m flows.classify cat.png",
        codes={
            0: "answered",
            1: "no answer from the server or the registry",
            2: "an image that cannot be read, or no champion",
        },
        settings="publish.model",
        arguments=add_classify_arguments,
    ),
    "deploy": Command(
        does="Say whether the source has changed enough to retrain, and why. The deployment new-data asks this every "
        "hour; nothing is changed.",
        example="python -m flows.deploy",
        codes={
            0: "retrain",
            1: "the registry cannot be used",
            2: "the source cannot be used",
            3: "nothing to do",
            143: "ended by SIGTERM",
        },
        settings="data, retrain.min_new_images, retrain.shift_alpha, publish.model, seed, threads",
    ),
}
"""`<verb>` or `<verb> <word>` -> its command, in the order in which a person needs them."""


# ---------------------------------------------------------------- parsing


class OneSentence(Parser):
    """A parser that refuses an argument with one sentence and exit code 2, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


def parser_of(verb: str) -> Parser:
    """Return the parser of `python -m flows.<verb>`, with the words below it."""
    parser = OneSentence(prog=f"python -m flows.{verb}", **parser_texts(COMMANDS[verb]))
    COMMANDS[verb].arguments(parser)
    below = {name.split()[1]: command for name, command in COMMANDS.items() if name.startswith(f"{verb} ")}
    if below:
        words = parser.add_subparsers(dest="command", required=verb == "settings", metavar="WORD", title="words")
        for word, command in below.items():
            command.arguments(words.add_parser(word, help=command.summary(), **parser_texts(command)))
    return parser


def parser_texts(command: Command) -> dict[str, Any]:
    return {
        "description": textwrap.fill(command.does, WIDTH),
        "epilog": command.epilog(),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }


def parse(verb: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the arguments (default: this process's).

    Ends the process for --help, for a refused argument, and in a Python that lacks the line's libraries."""
    chosen = parser_of(verb).parse_args(arguments)
    environment.require_environment()
    environment.spare_loopback()
    environment.give_numpy_one_thread()
    return chosen


def run(main: Callable[[], int]) -> NoReturn:
    """Run a verb and exit with its code, or with 130 and one sentence after Ctrl-C."""
    try:
        code = main()
    except KeyboardInterrupt:
        print("error: interrupted; the same command again is safe", file=sys.stderr)
        code = 130
    sys.exit(code)


def listing() -> str:
    """List every command with the first sentence of its description."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary()}" for name, command in COMMANDS.items()]
    return "\n".join(("python -m flows.<verb>, each with --help:", *lines))
