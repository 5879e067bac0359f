"""The menu of a space: named mixers with options. It turns a name, a width and chosen options into a mixer, and back.

An option that lists several values is chosen once per architecture: all layers of one entry are alike. Entries made of
other entries (head splits, token routes) take the options chosen for those.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hybridsearch.errors import InvalidArchitecture
from hybridsearch.spec.canonical import parse_mixer
from hybridsearch.spec.combinators import Mixer

Value = bool | int | float | str | None
Options = Mapping[str, Value]
"""Chosen values by key, e.g. `{"gdn.head_dim": 16}`."""

FILL = "fill"
"""As many heads as make the keys as wide as the residual stream."""
MOST_COMBINATIONS = 4096
PARTS = {"head_split": "of", "token_route": "linear"}
"""The option that says what an entry is made of."""
SELECTORS = tuple(f".{option}" for option in PARTS.values())
FIXED_ROUTING = ("periodic", "first", "random")
LINEAR_KINDS = ("gated_delta", "delta", "gated_linear", "kimi_delta", "hgrn")


@dataclass(frozen=True)
class Entry:
    """One line of the menu.

    A head split's options `of` and `split` are texts like `full+gdn` and `1:3`; a token route's option `linear` names
    an entry.
    """

    name: str
    kind: str
    choices: Mapping[str, tuple[Value, ...]]
    """Values of each option; one value means nothing is to choose."""

    @property
    def composite(self) -> bool:
        """Whether it is made of other entries."""
        return self.kind in PARTS

    @property
    def parts(self) -> tuple[str, ...]:
        """Entries that this one may be made of."""
        groups = self.choices[PARTS[self.kind]] if self.composite else ()
        return tuple(dict.fromkeys(name for group in groups for name in str(group).split("+")))


class Menu:
    """All entries of a space.

    Args:
        entries: in the order of the file; parts must be on the menu and form no circle.
    """

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self._built: dict[tuple[Any, ...], Mixer | InvalidArchitecture] = {}
        self._found: dict[int, dict[Mixer, list[tuple[str, dict[str, Value]]]]] = {}

    @cached_property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """Every option that has more than one value, by key."""
        return {
            f"{entry.name}.{option}": values
            for entry in self.entries.values()
            for option, values in entry.choices.items()
            if len(values) > 1
        }

    @cached_property
    def first(self) -> dict[str, Value]:
        """The first value of every option that is to choose."""
        return {key: values[0] for key, values in self.choices.items()}

    @cached_property
    def _own(self) -> dict[str, dict[str, None]]:
        """Keys of each entry's own options; kept, for a small step asks for them a dozen times."""
        return {
            name: dict.fromkeys(f"{name}.{option}" for option, values in entry.choices.items() if len(values) > 1)
            for name, entry in self.entries.items()
        }

    def keys(self, names: Iterable[str], options: Options) -> tuple[str, ...]:
        """Keys of the options that matter to these entries, given the parts that `options` chooses (or the first)."""
        found: dict[str, None] = {}
        for name in names:
            entry = self.entries[name]
            found |= self._own[name]
            if entry.composite:
                found |= dict.fromkeys(self.keys(self._chosen_parts(entry, options), options))
        return tuple(found)

    def combinations(self, names: Sequence[str], settled: Options | None = None) -> Iterator[dict[str, Value]]:
        """Every choice of the options that matter to these entries; first values come first."""
        settled = settled or {}
        key = next((key for key in self.keys(names, settled) if key not in settled), None)
        if key is None:
            yield dict(settled)
            return
        for value in self.choices[key]:
            yield from self.combinations(names, {**settled, key: value})

    def combination_count(self, names: Sequence[str], settled: Options | None = None) -> int:
        """How many `combinations` there are."""
        settled = settled or {}
        keys = [key for key in self.keys(names, settled) if key not in settled]
        selector = next((key for key in keys if key.endswith(SELECTORS)), None)
        if selector is None:
            return math.prod(len(self.choices[key]) for key in keys)
        return sum(self.combination_count(names, {**settled, selector: value}) for value in self.choices[selector])

    def mixer(self, name: str, width: int, options: Options) -> Mixer:
        """The entry as a mixer of a residual stream of `width`.

        Raises:
            InvalidArchitecture: the options do not fit each other or the width.
        """
        key = (name, width, *(options[key] for key in self.keys([name], options)))
        if key not in self._built:
            try:
                self._built[key] = self._build(self.entries[name], width, options)
            except InvalidArchitecture as error:
                self._built[key] = InvalidArchitecture(f"mixers.{name}: {error}")
        built = self._built[key]
        if isinstance(built, InvalidArchitecture):
            raise built
        return built

    def problem(self, name: str, width: int, options: Options) -> str | None:
        """Why the options make no mixer at `width`; None if they do."""
        try:
            self.mixer(name, width, options)
        except InvalidArchitecture as error:
            return str(error)
        return None

    def valid(self, name: str, width: int) -> dict[str, Value] | None:
        """The first choice of options that makes a mixer at `width`; None if there is none."""
        return next((options for options in self.combinations([name]) if not self.problem(name, width, options)), None)

    def find(self, mixer: Mixer, width: int) -> list[tuple[str, dict[str, Value]]]:
        """Entries and options that make this mixer at `width`; empty if it is not on the menu."""
        if width not in self._found:
            self._found[width] = self._index(width)
        known = self._found[width].get(mixer)
        return self._found[width].get(_normal(mixer.model_dump(mode="json")), []) if known is None else known

    def _index(self, width: int) -> dict[Mixer, list[tuple[str, dict[str, Value]]]]:
        index: dict[Mixer, list[tuple[str, dict[str, Value]]]] = {}
        for name in self.entries:
            for options in self.combinations([name]):
                if not self.problem(name, width, options):
                    index.setdefault(self.mixer(name, width, options), []).append((name, options))
        return index

    def _chosen_parts(self, entry: Entry, options: Options) -> list[str]:
        option = PARTS[entry.kind]
        return str(options.get(f"{entry.name}.{option}", entry.choices[option][0])).split("+")

    def _build(self, entry: Entry, width: int, options: Options) -> Mixer:
        chosen = {
            option: options[f"{entry.name}.{option}"] if len(values) > 1 else values[0]
            for option, values in entry.choices.items()
        }
        if entry.kind == "head_split":
            shares = parts_of(str(chosen["split"]))
            parts = [self.mixer(name, width, options) for name in self._chosen_parts(entry, options)]
            branches = [part.model_dump(mode="json") for part in parts]
            return _normal(
                {
                    "kind": "head_split",
                    "branches": [_shrunk(b, share, sum(shares)) for b, share in zip(branches, shares, strict=True)],
                    "normalise": chosen["normalise"],
                }
            )
        if entry.kind == "token_route":
            linear = self.mixer(str(chosen["linear"]), width, options)
            return _normal(_routed(linear.model_dump(mode="json"), chosen))
        return _normal({"kind": entry.kind, **chosen, "heads": _heads(chosen, width)})


def parts_of(text: str) -> tuple[int, ...]:
    """The numbers of a ratio: `3:1` is (3, 1)."""
    return tuple(int(part) for part in text.split(":"))


def _heads(chosen: Mapping[str, Value], width: int) -> Value:
    heads, head_dim = chosen["heads"], chosen["head_dim"]
    if heads != FILL or not isinstance(head_dim, int):
        return heads
    if width % head_dim:
        raise InvalidArchitecture(f"width {width} is not a multiple of head_dim {head_dim}; write the number of heads")
    return width // head_dim


def _shrunk(mixer: dict[str, Any], share: int, total: int) -> dict[str, Any]:
    """The mixer with `share` of `total` parts of its heads."""
    if mixer["kind"] == "token_route":
        inner = {key: _shrunk(mixer[key], share, total) for key in ("softmax", "linear")}
        return {**mixer, **inner}
    shrunk = dict(mixer)
    for key in ("heads", "kv_heads", "value_heads"):
        heads = mixer.get(key)
        if heads is not None and heads * share % total:
            raise InvalidArchitecture(f"{heads} {key} of {mixer['kind']} cannot be cut into {total} parts")
        if heads is not None:
            shrunk[key] = heads * share // total
    return shrunk


def _routed(linear: dict[str, Any], chosen: Mapping[str, Value]) -> dict[str, Any]:
    """Token routing over a linear mixer; the softmax branch sees the same projections in its own head geometry."""
    heads = chosen["softmax_heads"] or linear["heads"]
    keys = linear["heads"] * linear["head_dim"]
    values = linear["heads"] * (linear["value_head_dim"] or linear["head_dim"])
    if keys % heads or values % heads:
        raise InvalidArchitecture(f"keys of {keys} and values of {values} cannot be shared by {heads} softmax_heads")
    softmax = {
        "kind": "full",
        "heads": heads,
        "head_dim": keys // heads,
        "value_head_dim": values // heads,
        "rope_theta": chosen["rope_theta"],
        "qk_norm": chosen["qk_norm"],
    }
    own = {key: value for key, value in chosen.items() if key not in ("softmax_heads", "rope_theta", "qk_norm")}
    share = chosen["share"] if chosen["routing"] in FIXED_ROUTING else None
    return {"kind": "token_route", **own, "softmax": softmax, "linear": linear, "share": share}


def _normal(data: dict[str, Any]) -> Mixer:
    """The mixer written in one way: sizes that equal their default are left to it, branches in canonical order."""
    return parse_mixer(_without_defaults(data))


def _without_defaults(data: dict[str, Any]) -> dict[str, Any]:
    plain = {
        key: _without_defaults(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if key != "branches"
    }
    if "branches" in data:
        plain["branches"] = [_without_defaults(branch) for branch in data["branches"]]
    for key, same in (("kv_heads", "heads"), ("value_heads", "heads"), ("value_head_dim", "head_dim")):
        if plain.get(key) is not None and plain[key] == plain.get(same):
            plain[key] = None
    return plain
