"""`python -m tests.benchmarks run NAME` and `python -m tests.benchmarks tables`."""

import sys

from tests.benchmarks.harness import main

sys.exit(main(sys.argv[1:]))
