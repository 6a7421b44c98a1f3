"""Support long-running work: progress, processes, workers, devices, signals."""
