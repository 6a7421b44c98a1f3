"""The check that refuses a value which a person has set."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError unless the condition holds; the message says the value, the rule and what to do."""
    if not condition:
        raise ValueError(message)
