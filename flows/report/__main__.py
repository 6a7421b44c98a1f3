"""`python -m flows.report`: write results/report.html from what lies in this folder.

Exit codes: 0 written, 2 there is nothing to report on, or params.yaml is refused (one sentence says why).
"""

import argparse
import sys

from flows.report.page import make, write
from flows.settings import load_params


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flows.report",
        description="Write results/report.html, one file that needs no network, from the results in this folder. "
        "What was not run or not recorded is said there in a sentence. `python -m flows.retrain` writes it too.",
        epilog="Exit codes: 0 written, 2 bad input. Example: python -m flows.report",
    )
    parser.parse_args(arguments)
    try:
        params = load_params()
        print(write(params, make(params)))
    except (ValueError, OSError) as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
