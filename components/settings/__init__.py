"""The settings of params.yaml as dataclasses, one file for each section."""
