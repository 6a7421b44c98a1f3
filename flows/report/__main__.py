"""`python -m flows.report`: write results/report.html from what lies in this folder."""

from flows import commands

if __name__ == "__main__":
    commands.parse("report")  # before the libraries: help waits for none of them

from collections.abc import Sequence

from flows.checkout.settings import load_params
from flows.report.page import make, write
from flows.runtime.exits import ends_in_a_sentence


@ends_in_a_sentence
def main(arguments: Sequence[str] | None = None) -> int:
    commands.parse("report", arguments)
    params = load_params()
    print(write(params, make(params)))
    return 0


if __name__ == "__main__":
    commands.run(main)
