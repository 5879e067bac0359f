"""`hybridsearch doctor`: stub."""

EXAMPLES = ""


def doctor() -> None:
    """Doctor."""
