"""What is always trained: the network that was found, and the default one beside it."""

SEARCHED, BASELINE = VARIANTS = ("searched", "baseline")
