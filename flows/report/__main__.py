"""`python -m flows.report`: write results/report.html from what lies in this folder."""

from flows import commands

if __name__ == "__main__":
    commands.parse("report")  # before the libraries: help waits for none of them

import sys

from flows.checkout.settings import load_params
from flows.report.page import make, write


def main(arguments: list[str] | None = None) -> int:
    commands.parse("report", arguments)
    try:
        params = load_params()
        print(write(params, make(params)))
    except (ValueError, OSError) as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    commands.run(main)
