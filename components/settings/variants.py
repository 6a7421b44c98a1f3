"""Names of the networks that are always trained: the one that was found, and the default one."""

SEARCHED, BASELINE = VARIANTS = ("searched", "baseline")


def budget_number(variant: str) -> int:
    """Return the number of the budget that a variant belongs to: 2 of `budget_2`, the first of all others."""
    return int(variant.partition("_")[2] or 1)
