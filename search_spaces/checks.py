"""Contradictions inside a space that show without an architecture; each names the key to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybridsearch.search_spaces import feed_forward
from hybridsearch.search_spaces.menu import LINEAR_KINDS, MOST_COMBINATIONS, parts_of
from hybridsearch.yaml_files import ProblemAt

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space

BOUNDED_KINDS = (*LINEAR_KINDS, "sliding")


def check(space: Space) -> None:
    """Refuse a space that contradicts itself.

    Raises:
        ProblemAt: with the key.
    """
    _names(space)
    _composites(space)
    _menu(space)
    _controls(space)
    _roles(space)
    _depths(space)


def _names(space: Space) -> None:
    pattern = space.layers.pattern
    lists: dict[tuple[str, ...], tuple[str, ...]]
    lists = {("layers", key): getattr(space.layers, key) for key in ("free", "not_first", "not_last", "not_adjacent")}
    if pattern is not None:
        lists |= {("layers", "pattern", key): getattr(pattern, key) for key in ("linear", "full")}
    for path, names in lists.items():
        for name in names:
            if name not in space.mixers:
                raise ProblemAt(f"{name!r} is not on the menu: {', '.join(space.mixers)}", *path)


def _composites(space: Space) -> None:
    for entry in space.menu.entries.values():
        for key in ("of", "linear") if entry.composite else ():
            for text in entry.choices.get(key, ()):
                for name in str(text).split("+"):
                    _part(space, entry.name, entry.kind, key, name)
        if entry.kind == "head_split":
            _lengths(entry.name, entry.choices["of"], entry.choices["split"])


def _part(space: Space, entry: str, kind: str, key: str, name: str) -> None:
    allowed = ("gated_delta", "delta") if kind == "token_route" else (*BOUNDED_KINDS, "full", "token_route")
    if name not in space.mixers:
        raise ProblemAt(f"{name!r} is not on the menu: {', '.join(space.mixers)}", "mixers", entry, key)
    if space.mixers[name].kind not in allowed:
        raise ProblemAt(
            f"{name!r} is of kind {space.mixers[name].kind}; a {kind} takes {', '.join(allowed)}", "mixers", entry, key
        )


def _lengths(entry: str, groups: tuple[object, ...], splits: tuple[object, ...]) -> None:
    for group in groups:
        for split in splits:
            if str(group).count("+") != str(split).count(":"):
                raise ProblemAt(f"split {split} does not fit the mixers {group}", "mixers", entry, "split")


def _menu(space: Space) -> None:
    for name in space.menu.entries:
        count = space.menu.combination_count([name])
        if count > MOST_COMBINATIONS:
            raise ProblemAt(f"{count} combinations of options; at most {MOST_COMBINATIONS}", "mixers", name)
        if not any(space.menu.valid(name, width) is not None for width in space.width):
            raise ProblemAt(_why(space, name), "mixers", name)


def _controls(space: Space) -> None:
    width, _ = space.reference_size
    for kinds in (("full",), BOUNDED_KINDS):
        names = [name for name, line in space.mixers.items() if line.kind in kinds]
        if not names:
            raise ProblemAt(
                f"the controls of a search need an entry of kind {' or '.join(kinds)} on the menu", "mixers"
            )
        if not feed_forward.fitting(space, *kinds):
            raise ProblemAt(f"{' or '.join(names)} must fit the width of the controls, {width}", "reference", "width")


def _why(space: Space, name: str) -> str:
    width = space.width[0]
    problems = (space.menu.problem(name, width, options) for options in space.menu.combinations([name]))
    return f"no choice of options fits any width: {next(filter(None, problems))}"


def _roles(space: Space) -> None:
    if space.layers.pattern is None:
        for key in ("not_first", "not_last"):
            if set(space.free) <= set(getattr(space.layers, key)):
                raise ProblemAt("refuses every entry that a layer may have", "layers", key)
        return
    linears, fulls = space.roles
    for key, names in (("linear", linears), ("full", fulls)):
        if not names:
            raise ProblemAt("no entry of the menu can take this role; name one", "layers", "pattern", key)
    both = [name for name in linears if name in fulls]
    if both:
        raise ProblemAt(f"{both[0]!r} stands for linear and for full layers", "layers", "pattern", "full")
    for index, ratio in enumerate(space.layers.pattern.ratio):
        if not any(parts_of(ratio)):
            raise ProblemAt("0:0 has no layers", "layers", "pattern", "ratio", index)


def _depths(space: Space) -> None:
    limits, deepest = space.constraints.full_layers, max(space.depth)
    if limits is not None and limits.minimum is not None and limits.minimum > deepest:
        text = f"{limits.minimum} full layers do not fit the greatest depth, {deepest}"
        raise ProblemAt(text, "constraints", "full_layers", "minimum")
