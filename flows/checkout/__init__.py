"""The folder that the line works in: its paths and files, what DVC and git say of it, and its settings."""
