"""One OpenMP thread a process, in tests and in whatever they start: their networks are so small that a second thread
makes no step faster, and waits for the first at the price of a core. torch reads this when it is imported; benchmarks
run outside pytest, as they are told."""

import os

if "PYTEST_VERSION" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
