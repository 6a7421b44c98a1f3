"""How a person's value is refused."""


def require(condition: bool, message: str) -> None:
    """Refuse a person's value with one sentence that says the rule, the value and what to do."""
    if not condition:
        raise ValueError(message)
