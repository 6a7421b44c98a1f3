"""From a model back to the images."""
