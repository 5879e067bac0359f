"""A search space as read from YAML: its grammar, its defaults, and the checks that need no architecture.

An option or size that may be searched is written as one value or as a list of choices. The options of a mixer are
those of its description in `spec/`, so a new mixer can be searched without a change here. The grammar by example:
README.md beside this file.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    create_model,
    model_validator,
)

from hybridsearch.search_spaces import checks, feed_forward, rules, size
from hybridsearch.search_spaces.menu import FILL, LINEAR_KINDS, Entry, Menu
from hybridsearch.search_spaces.notation import colons, distinct, joined, listed, sizes
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.combinators import LEAVES, TokenRoute
from hybridsearch.spec.mixers import FullAttention

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0)]
Heads = Annotated[
    Annotated[Count, Tag("number")] | Annotated[Literal["fill"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "number"),
]
Choices = Annotated[tuple[T, ...], BeforeValidator(listed), AfterValidator(distinct), Field(min_length=1)]
Sizes = Annotated[tuple[Count, ...], BeforeValidator(sizes), AfterValidator(distinct), Field(min_length=1)]
Ratio = Annotated[str, BeforeValidator(colons), Field(pattern=r"^\d+:\d+$")]
Split = Annotated[str, BeforeValidator(colons), Field(pattern=r"^[1-9]\d*(:[1-9]\d*)+$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Names = Annotated[tuple[Name, ...], BeforeValidator(listed), AfterValidator(distinct)]


class Part(BaseModel):
    """Base of every part of a space: frozen, strict about keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MixerOptions(Part):
    """A line of the menu; every option holds one or more choices."""

    kind: str

    def entry(self, name: str) -> Entry:
        """The line as plain values."""
        options = {option: getattr(self, option) for option in type(self).model_fields if option != "kind"}
        return Entry(name, self.kind, options)


class HeadSplitOptions(MixerOptions):
    """A layer whose heads are shared out: each mixer of `of` gets its part of its own heads."""

    kind: Literal["head_split"] = "head_split"
    of: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\+[a-z][a-z0-9_]*)+$")], ...],
        BeforeValidator(joined),
        AfterValidator(distinct),
        Field(min_length=1),
    ]
    split: Choices[Split] = ("1:1",)
    normalise: Choices[bool] = (True,)


def _searchable(description: type[BaseModel], *left_out: str) -> dict[str, Any]:
    """The fields of a mixer's description as fields of choices."""
    fields: dict[str, Any] = {}
    for name, field in description.model_fields.items():
        if name in ("kind", *left_out):
            continue
        inner: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        if name == "heads":
            fields[name] = (Choices[Heads], (FILL,))
        else:
            fields[name] = (Choices[inner], ... if field.is_required() else (field.default,))
    return fields


def _options_of(description: type[BaseModel], fields: dict[str, Any]) -> type[MixerOptions]:
    kind: Any = description.model_fields["kind"]
    name = f"{description.__name__}Options"
    return create_model(name, __base__=MixerOptions, kind=(kind.annotation, kind.default), **fields)


_ROUTE_FIELDS = {
    "linear": (Choices[Name], ...),
    "softmax_heads": (Choices[Count | None], (None,)),
    **{key: value for key, value in _searchable(FullAttention).items() if key in ("rope_theta", "qk_norm")},
    **_searchable(TokenRoute, "softmax", "linear"),
}
LINES: tuple[type[MixerOptions], ...] = (
    *(_options_of(leaf, _searchable(leaf)) for leaf in LEAVES),
    _options_of(TokenRoute, _ROUTE_FIELDS),
    HeadSplitOptions,
)
if TYPE_CHECKING:
    MenuLine = MixerOptions
else:
    MenuLine = Annotated[Union[LINES], Field(discriminator="kind")]  # noqa: UP007


class PatternRule(Part):
    """Layers of two mixers, set by a ratio and a placement."""

    ratio: Choices[Ratio]
    """linear:full; 1:0 is purely linear, 0:1 purely full."""
    placement: Choices[Literal["uniform", "first", "last", "middle", "ends", "scattered"]] = ("uniform",)
    linear: Names = ()
    """Entries for the linear layers; none means every entry of a linear kind."""
    full: Names = ()
    """Entries for the full layers; none means every full entry."""


class LayerRules(Part):
    """Which mixer each layer may have. With both `free` and `pattern` an architecture follows either."""

    free: Names = ()
    """Entries among which every layer chooses for itself; with no pattern, none means the whole menu."""
    pattern: PatternRule | None = None
    not_first: Names = ()
    """Entries that may not stand in the first layer."""
    not_last: Names = ()
    not_adjacent: Names = ()
    """Entries of which no two may follow each other."""


class Match(Part):
    """Total parameters, without the embedding, that every candidate is given by its feed-forward width."""

    match: Literal["full"] | Count = "full"
    """A number, or those of the reference with full attention in all layers."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Largest relative difference."""


class FeedForward(Part):
    """Inner width of the SwiGLU feed-forwards: exactly one of `width`, `ratio` and `parameters`."""

    width: Choices[Annotated[int, Field(ge=0)]] | None = None
    ratio: Choices[Share] | None = None
    """In residual widths."""
    parameters: Match | None = None
    multiple: Count = 8
    """Widths are rounded to this, where the tolerance allows."""
    minimum: Share = 0.25
    """Smallest solved width, in residual widths."""
    maximum: Share = 16.0

    @model_validator(mode="after")
    def _one_rule(self) -> "FeedForward":
        given = [key for key in ("width", "ratio", "parameters") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of width, ratio and parameters, found {' and '.join(given) or 'none'}")
        return self


class Reference(Part):
    """Size of the controls, and of the architecture whose parameters are matched."""

    depth: Count | None = None
    """None means the middle choice."""
    width: Count | None = None
    ratio: Share = 8 / 3
    """Inner width of its feed-forwards in residual widths, where they are solved."""


class Limits(Part):
    """A closed range, or a half-open one."""

    minimum: Annotated[int, Field(ge=0)] | None = None
    maximum: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> "Limits":
        if self.minimum is None and self.maximum is None:
            raise ValueError("give a minimum, a maximum or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class StateLimits(Limits):
    """Limits on the decode memory of one sequence."""

    context: Count
    """Tokens in memory."""
    element_bytes: Literal[1, 2, 4] = 2
    """Bytes of one cached key or value element."""


class Constraints(Part):
    """What every candidate must keep; counted, not trained."""

    full_layers: Limits | None = None
    """Layers that hold softmax attention over the whole past, token-routed ones included."""
    state_bytes: StateLimits | None = None
    parameters: Limits | None = None
    """Without the embedding."""


class Space(Part):
    """A search space. Sizes and options with several choices span it; rules and constraints cut it."""

    description: str = ""
    depth: Sizes
    """Layers: a number, a list, or `{minimum, maximum, step}`."""
    width: Sizes
    """Residual width, likewise."""
    mixers: Annotated[dict[Name, MenuLine], Field(min_length=1)]
    """The menu. A line without `kind` has its name as its kind."""
    layers: LayerRules = LayerRules()
    feed_forward: FeedForward = FeedForward(parameters=Match())
    reference: Reference = Reference()
    constraints: Constraints = Constraints()
    tied_embeddings: bool = True
    _members: frozenset[Architecture] | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _kinds(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("mixers"), Mapping):
            return data
        lines = {
            name: {"kind": name, **(line or {})} if line is None or isinstance(line, Mapping) else line
            for name, line in data["mixers"].items()
        }
        return {**data, "mixers": lines}

    @model_validator(mode="after")
    def _consistent(self) -> "Space":
        checks.check(self)
        return self

    @cached_property
    def menu(self) -> Menu:
        """The mixers by name, with their options."""
        return Menu(tuple(line.entry(name) for name, line in self.mixers.items()))

    @cached_property
    def free(self) -> tuple[str, ...]:
        """Entries among which every layer chooses; empty if only patterns are allowed."""
        return self.layers.free or (() if self.layers.pattern else tuple(self.mixers))

    @cached_property
    def roles(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Entries for the linear and for the full layers of a pattern."""
        pattern = self.layers.pattern
        if pattern is None:
            return (), ()
        linear = pattern.linear or tuple(name for name, line in self.mixers.items() if line.kind in LINEAR_KINDS)
        return linear, pattern.full or tuple(name for name, line in self.mixers.items() if line.kind == "full")

    @property
    def feed_forwards(self) -> tuple[float | None, ...]:
        """Choices of a fixed feed-forward, as widths or ratios; (None,) where it is solved."""
        return self.feed_forward.width or self.feed_forward.ratio or (None,)

    @cached_property
    def reference_size(self) -> tuple[int, int]:
        """Width and depth of the controls."""
        depths, widths = sorted(self.depth), sorted(self.width)
        return self.reference.width or widths[len(widths) // 2], self.reference.depth or depths[len(depths) // 2]

    @cached_property
    def target(self) -> int:
        """Parameters, without the embedding, that candidates (where solved) and controls are matched to."""
        return feed_forward.target(self)

    @cached_property
    def listing(self) -> tuple[Architecture, ...] | None:
        """Every architecture of the space, or None if they are too many to list."""
        return size.listing(self)

    @property
    def members(self) -> frozenset[Architecture] | None:
        """The only architectures of a space that was restricted to them; none for all that its grammar makes."""
        return self._members

    def violations(self, architecture: Architecture) -> list[str]:
        """Everything that keeps an architecture out of the space, one sentence each; empty if it lies in it."""
        return rules.violations(self, architecture)

    def size(self) -> int:
        """Architectures in the space: exact where few, else an upper bound (`size.count` says which)."""
        return size.count(self).architectures
