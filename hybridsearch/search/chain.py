"""An architecture as a sum of terms along its layers: one-body, neighbours, and how many layers attend.

A cluster expansion truncated at pairs (after the surrogate of 2604.19877): every layer adds what its menu entry is
worth at its height, each pair of neighbours adds its own term, and two steps say whether one, and whether two layers
see the whole past. What a model linear in these terms likes best is found exactly by dynamic programming.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hybridsearch.errors import InvalidArchitecture
from hybridsearch.pareto.dominance import Floats
from hybridsearch.search_spaces.menu import Value
from hybridsearch.search_spaces.plan import Plan, read
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash, parse

STEPS = 2
"""Layers that attend are counted up to this: published searches keep at least two (2511.18890)."""
SPREADS = {"depth": 0.7, "size": 0.5, "group": 1.0, "count": 0.6, "slope": 0.3, "bend": 0.3, "end": 0.3, "option": 0.5,
           "group pair": 0.5, "pair": 0.2, "steps": 1.0}  # fmt: skip
"""Prior standard deviation of the terms' weights, by family. What layers of a group share is likelier large than what
sets an entry apart: with few trials the model knows where attention stands before it knows which mixer is best."""
ATTENDING = ("full", "token_route")
REMEMBERED = 2048
"""Architectures whose plans and terms are remembered: several times as many as a model is fitted to; about 8 MB."""
GROUPS = ("LINEAR", "ATTENDING")
"""Layers without and with softmax over the whole past; upper case keeps them apart from menu entries."""


class Chain:
    """The terms of one space, in a fixed order."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.entries = tuple(dict.fromkeys((*space.free, *space.roles[0], *space.roles[1])))
        """Menu entries that may stand in a layer."""
        self.attends = np.array([_attends(space, name) for name in self.entries])
        """(entries,) whether a layer of it sees the whole past by softmax."""
        families = [
            *(("depth", f"depth={depth}") for depth in space.depth),
            *(("size", f"width={width}") for width in space.width if len(space.width) > 1),
            *(("size", f"feed_forward={choice}") for choice in space.feed_forwards if len(space.feed_forwards) > 1),
            *(("group", f"{kind} {group}") for kind in ("count", "slope", "bend", "first", "last") for group in GROUPS),
            *((family, f"{family} {name}") for family in ("count", "slope", "bend") for name in self.entries),
            *(("end", f"{where} {name}") for where in ("first", "last") for name in self.entries),
            *(("option", f"{key}={value}") for key, values in space.menu.choices.items() for value in values),
            *(("group pair", f"{a} {b}") for a in GROUPS for b in GROUPS),
            *(("pair", f"{a} {b}") for a in self.entries for b in self.entries),
            *(("steps", f"attending>={count}") for count in range(1, STEPS + 1)),
        ]
        self.names = tuple(name for _, name in families)
        """What each term is, for people."""
        self.spreads: Floats = np.array([SPREADS[family] for family, _ in families])
        """(terms,) prior standard deviations."""
        self._index = {name: index for index, name in enumerate(self.names)}
        self._group = {name: GROUPS[int(attends)] for name, attends in zip(self.entries, self.attends, strict=True)}
        menu = space.menu
        self._keys = {name: menu.keys([name], {}) for name in self.entries if not menu.entries[name].composite}
        pairs = [
            (self._index[f"{a} {b}"], self._index[f"{self._group[a]} {self._group[b]}"])
            for a in self.entries
            for b in self.entries
        ]
        self._pairs = np.array(pairs, dtype=np.int64).reshape(len(self.entries), len(self.entries), 2)
        self._columns = {name: column for column, name in enumerate(self.entries)}
        self._layers: dict[int, Floats] = {}

    def row(self, plan: Plan) -> Floats:
        """The terms (terms,) of a plan."""
        columns = np.array([self._columns[name] for name in plan.layers], dtype=np.int64)
        found = self._whole(plan.depth, plan.width, plan.feed_forward)
        found += self._of_layers(plan.depth)[np.arange(plan.depth), columns].sum(axis=0)
        found += np.bincount(self._pairs[columns[:-1], columns[1:]].ravel(), minlength=len(found))
        for name in set(plan.layers):
            found[self._options(name, plan.options)] += plan.layers.count(name)
        attending = int(self.attends[columns].sum())
        for count in range(1, min(attending, STEPS) + 1):
            found[self._index[f"attending>={count}"]] = 1.0
        return found

    def best_layers(self, weights: Floats, like: Plan) -> tuple[str, ...] | None:
        """The layers that make `row(plan) @ weights` smallest, all else as in `like`; None if no stack is allowed.

        Exact over the free stacks of the space, its rules for ends and neighbours and its limits on full layers kept.
        """
        unary: Floats = self._of_layers(like.depth) @ weights
        unary += [weights[self._options(name, like.options)].sum() for name in self.entries]
        pairs: Floats = weights[self._pairs].sum(axis=2)
        rules = self.space.layers
        for column, name in enumerate(self.entries):
            if name not in self.space.free:
                unary[:, column] = np.inf
            if name in rules.not_first:
                unary[0, column] = np.inf
            if name in rules.not_last:
                unary[-1, column] = np.inf
            if name in rules.not_adjacent:
                pairs[column, column] = np.inf
        chosen = cheapest(unary, pairs, self.attends, self._worth_of_counts(weights, like.depth))
        return None if chosen is None else tuple(self.entries[column] for column in chosen)

    def _worth_of_counts(self, weights: Floats, depth: int) -> Floats:
        """(depth + 1,) what each number of attending layers adds; infinite outside the space's limits."""
        steps = [weights[self._index[f"attending>={count}"]] for count in range(1, STEPS + 1)]
        worth: Floats = np.array([sum(steps[:count]) for count in range(depth + 1)], dtype=np.float64)
        limits = self.space.constraints.full_layers
        if limits is not None:
            worth[: limits.minimum or 0] = np.inf
            worth[(depth if limits.maximum is None else limits.maximum) + 1 :] = np.inf
        return worth

    def _whole(self, depth: int, width: int, feed_forward: float | None) -> Floats:
        found = np.zeros(len(self.names))
        for name in (f"depth={depth}", f"width={width}", f"feed_forward={feed_forward}"):
            if name in self._index:
                found[self._index[name]] = 1.0
        return found

    def keys(self, name: str, options: Mapping[str, Value]) -> tuple[str, ...]:
        """Options that matter to an entry; only for one made of others do they depend on what is chosen."""
        known = self._keys.get(name)
        return self.space.menu.keys([name], options) if known is None else known

    def _options(self, name: str, options: Mapping[str, Value]) -> list[int]:
        """Terms of the chosen options that matter to an entry."""
        return [self._index[f"{key}={options[key]}"] for key in self.keys(name, options)]

    def _of_layers(self, depth: int) -> Floats:
        """(depth, entries, terms) what an entry adds at each height, its options left out; made once."""
        if depth not in self._layers:
            table = np.zeros((depth, len(self.entries), len(self.names)))
            for layer in range(depth):
                for column, name in enumerate(self.entries):
                    self._add_layer(table[layer, column], layer, depth, name)
            self._layers[depth] = table
        return self._layers[depth]

    def _add_layer(self, row: Floats, layer: int, depth: int, name: str) -> None:
        height = (2 * layer + 1) / depth - 1.0  # -1 at the bottom, 1 at the top
        for who in (name, self._group[name]):
            row[self._index[f"count {who}"]] += 1.0
            row[self._index[f"slope {who}"]] += height
            row[self._index[f"bend {who}"]] += height * height - 1 / 3
            if layer == 0:
                row[self._index[f"first {who}"]] = 1.0
            if layer == depth - 1:
                row[self._index[f"last {who}"]] = 1.0


def cheapest(unary: Floats, pairs: Floats, counted: Floats, worth: Floats) -> list[int] | None:
    """The states of a chain with the smallest sum of terms, by dynamic programming over (state, count so far).

    Args:
        unary: (length, states) cost of a state at a place; infinite where it is not allowed.
        pairs: (states, states) cost of a state followed by another.
        counted: (states,) whether a state is counted.
        worth: (length + 1,) cost of so many counted states.

    Returns:
        A state for each place, or None if every chain costs infinitely much.
    """
    length, states = unary.shape
    counted = np.asarray(counted, dtype=np.bool_)
    cost = np.full((states, length + 1), np.inf)
    cost[np.arange(states), counted.astype(int)] = unary[0]
    before = np.zeros((length, states, length + 1), dtype=np.int64)
    for place in range(1, length):
        reached = cost[:, None, :] + pairs[:, :, None]
        before[place] = reached.argmin(axis=0)
        least = reached.min(axis=0) + unary[place][:, None]
        cost = least
        cost[counted] = np.concatenate([np.full((counted.sum(), 1), np.inf), least[counted][:, :-1]], axis=1)
    total = cost + worth[None, :]
    if not np.isfinite(total).any():
        return None
    state, count = (int(index) for index in np.unravel_index(np.argmin(total), total.shape))
    chosen = [state]
    for place in range(length - 1, 0, -1):
        count -= int(counted[state])
        state = int(before[place, state, count])
        chosen.append(state)
    return chosen[::-1]


@dataclass(frozen=True, slots=True)
class _Same:
    """A space as a key of caches: the same object, whatever it holds."""

    space: Space

    def __hash__(self) -> int:
        return id(self.space)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.space is self.space


def chain_of(space: Space) -> Chain:
    """The space's chain, made once."""
    return _chain(_Same(space))


def plan_of(space: Space, architecture: str) -> Plan | None:
    """The plan of a canonical architecture, remembered; None if it is no stack of the space's entries (a control)."""
    return _plan(_Same(space), architecture)


def row_of(space: Space, architecture: str) -> Floats | None:
    """The terms of a canonical architecture, remembered; None as `plan_of`."""
    return _row(_Same(space), architecture)


@dataclass(frozen=True, slots=True)
class Listed:
    """Every architecture of a space that is small enough, with its terms."""

    architectures: tuple[Architecture, ...]
    hashes: tuple[str, ...]
    rows: Floats
    """(architectures, terms)."""


def listed(space: Space) -> Listed | None:
    """The space's architectures, made once; None if there are too many to list."""
    return None if space.listing is None else _listed(_Same(space))


@lru_cache(maxsize=4)
def _listed(key: _Same) -> Listed:
    rows = [(a, _row(key, canonical_json(a))) for a in key.space.listing or ()]
    known = [(architecture, row) for architecture, row in rows if row is not None]
    return Listed(
        architectures=tuple(architecture for architecture, _ in known),
        hashes=tuple(content_hash(architecture) for architecture, _ in known),
        rows=np.array([row for _, row in known]),
    )


@lru_cache(maxsize=8)
def _chain(key: _Same) -> Chain:
    return Chain(key.space)


@lru_cache(maxsize=REMEMBERED)
def _plan(key: _Same, architecture: str) -> Plan | None:
    chain = _chain(key)
    try:
        plan = read(key.space, parse(architecture))
    except InvalidArchitecture:
        return None
    known = set(plan.layers) <= set(chain.entries) and plan.depth in key.space.depth
    return plan if known else None


@lru_cache(maxsize=REMEMBERED)
def _row(key: _Same, architecture: str) -> Floats | None:
    plan = _plan(key, architecture)
    return None if plan is None else _chain(key).row(plan)


def _attends(space: Space, name: str) -> bool:
    """Whether the entry, or a part that it may be made of, sees the whole past by softmax."""
    entry = space.menu.entries[name]
    return entry.kind in ATTENDING or any(_attends(space, part) for part in entry.parts)
