"""Write results/report.html from the results in this folder: `python -m flows.report`."""

from flows import commands

if __name__ == "__main__":
    commands.parse("report")  # before the slow imports, so that --help answers at once

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
