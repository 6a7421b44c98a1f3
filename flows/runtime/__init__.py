"""What any long work needs: progress, processes, workers, devices, signals."""
