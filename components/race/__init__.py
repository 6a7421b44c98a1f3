"""The race that decides what ships: short trainings side by side, judged on val."""
