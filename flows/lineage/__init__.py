"""Trace a model back to the images that it was made from."""
