"""Names of the networks that are always trained: the one that was found, and the default one."""

SEARCHED, BASELINE = VARIANTS = ("searched", "baseline")
