"""End a command with one sentence for a person and a documented exit code.

`flows.commands` documents the codes of every verb; `flows.stage` adds the file in which a flow finds them. Only the
standard library is imported here.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps

from flows.runtime.signals import Terminated

Main = Callable[[Sequence[str] | None], int]


class Failure(Exception):
    """Ends a command with the exit code of its class; its text is the sentence that a person reads."""

    code = 1


def refuse(code: int, sentence: str) -> int:
    """Print what is wrong and return the exit code."""
    print(f"error: {sentence}", file=sys.stderr)
    return code


def ends_in_a_sentence(main: Main) -> Callable[..., int]:
    """Decorate a command's `main` so that expected failures print a sentence; a bug keeps its traceback.

    Exit codes: 2 for a person's mistake or an unusable file or disk, a `Failure`'s own code, 143 for SIGTERM. Ctrl-C is
    handled by `commands.run`.
    """

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except Failure as failed:
            return refuse(failed.code, str(failed))
        except (ValueError, OSError) as mistake:
            return refuse(2, str(mistake))
        except Terminated:
            return 143

    return run
