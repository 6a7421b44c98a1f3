"""Access the folder that the line works in: its paths, files and settings, and its state in DVC and git."""
