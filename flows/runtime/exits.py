"""How a command ends: one sentence for a person, and a documented exit code.

Only the standard library is imported here.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps

from flows.runtime.signals import Terminated

Main = Callable[[Sequence[str] | None], int]


class Failure(RuntimeError):
    """What ends a command with an exit code of its own; its text is the sentence that a person reads."""

    code = 1


def refuse(code: int, sentence: str) -> int:
    """Say what is wrong, and return the exit code."""
    print(f"error: {sentence}", file=sys.stderr)
    return code


def ends_in_a_sentence(main: Main) -> Callable[..., int]:
    """The command's `main`, whose expected failures are a sentence and an exit code; a bug keeps its traceback.

    2: a person's mistake, or a file or disk that cannot be used. A `Failure` has its own code. 143: SIGTERM. Ctrl-C is
    `commands.run`'s.
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
