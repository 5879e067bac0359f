"""One seed becomes named, independent streams, so that no part of a run depends on the order of another's draws."""

import hashlib
import random


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`, e.g. `derive(7, "trial", 12, "data")`.

    The same arguments give the same value on every machine and Python version (SHA-256 of their text).
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> random.Random:
    """A generator of its own for the stream called `names`."""
    return random.Random(derive(seed, *names))
