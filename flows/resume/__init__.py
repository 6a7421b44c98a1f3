"""Resume what was interrupted: an online search (augmentation, loss), the architecture search, a training."""
