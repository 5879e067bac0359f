"""`hybridsearch bench`: stub."""

EXAMPLES = ""


def bench() -> None:
    """Bench."""
