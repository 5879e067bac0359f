"""How choices may be written in YAML: one value for a list of one, steps of sizes, ratios, groups of names."""

from collections.abc import Mapping
from typing import Any, TypeVar

from hybridsearch.yaml_files import ProblemAt

T = TypeVar("T")


def listed(value: Any) -> Any:
    """One value as a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def sizes(value: Any) -> Any:
    """`{minimum: 4, maximum: 8, step: 2}` as the sizes 4, 6, 8; step is 1 if left out."""
    if not isinstance(value, Mapping):
        return listed(value)
    known = ("minimum", "maximum", "step")
    for key in value:
        if key not in known:
            raise ProblemAt(f"unknown key; known here: {', '.join(known)}", key)
    bounds = {"step": 1, **value}
    for key in known:
        if not isinstance(bounds.get(key), int) or isinstance(bounds[key], bool) or bounds[key] < 1:
            raise ProblemAt(f"{key} must be a whole number from 1 up, found {bounds.get(key)!r}", key)
    if bounds["minimum"] > bounds["maximum"]:
        raise ProblemAt(f"minimum {bounds['minimum']} is above maximum {bounds['maximum']}", "minimum")
    return tuple(range(bounds["minimum"], bounds["maximum"] + 1, bounds["step"]))


def distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """The values, none of them twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} is listed twice")
    return values


def colons(value: Any) -> Any:
    """YAML reads an unquoted 3:1 as the base-60 number 181; its digits are the numbers that were written."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 60:
        return value
    digits: list[str] = []
    while value:
        value, digit = divmod(value, 60)
        digits.insert(0, str(digit))
    return ":".join(digits)


def joined(value: Any) -> Any:
    """`[a, b]` and `[[a, b], [a, c]]` as the texts `a+b` and `a+c`."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        return value
    if all(isinstance(part, str) and "+" not in part for part in value):
        return ("+".join(value),)
    return tuple("+".join(map(str, group)) if isinstance(group, list | tuple) else group for group in value)
