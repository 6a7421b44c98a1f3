"""One training path, shared by every search and by the final training."""
