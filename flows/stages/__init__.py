"""Implement the stages of dvc.yaml, one file for each."""
