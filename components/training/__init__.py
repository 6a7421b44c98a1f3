"""The one way to train and run networks, shared by every search and by the final training."""
