"""A space with some of its architectures alone, e.g. those of a table."""

from collections.abc import Iterable

from hybridsearch.search_spaces import rules
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture


def restricted(space: Space, architectures: Iterable[Architecture]) -> Space:
    """The same space with those of the architectures alone that lie in it.

    Everything that draws or changes architectures keeps to them: a random one is any of them with equal chance, and a
    mutation, a crossover or a decoded point goes on until it meets one.
    """
    listed = tuple(architecture for architecture in architectures if not rules.violations(space, architecture))
    copy = space.model_copy()
    copy._members = frozenset(listed)
    copy.__dict__["listing"] = listed  # in place of what the grammar makes
    return copy
