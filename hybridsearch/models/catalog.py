"""Which module realises which description."""

from collections.abc import Callable
from typing import Any

from hybridsearch.models.attention import FullAttention, SlidingWindow
from hybridsearch.models.gated_delta import DeltaRule
from hybridsearch.models.head_split import HeadSplit
from hybridsearch.models.hgrn import GatedRecurrence
from hybridsearch.models.kimi_delta import KimiDeltaRule
from hybridsearch.models.linear_attention import LinearAttention
from hybridsearch.models.mixer import Mixer
from hybridsearch.models.token_route import TokenRoute
from hybridsearch.spec import combinators
from hybridsearch.spec import mixers as spec
from hybridsearch.spec.hgrn import Hgrn
from hybridsearch.spec.kimi_delta import KimiDelta


def _head_split(description: combinators.HeadSplit, width: int, *, project: bool = True) -> HeadSplit:
    branches = [mixer(branch, width, project=False) for branch in description.branches]
    return HeadSplit(branches, width, normalise=description.normalise, project=project)


MIXERS: dict[type[spec.Description], Callable[..., Mixer[Any]]] = {
    spec.FullAttention: FullAttention,
    spec.SlidingWindow: SlidingWindow,
    spec.GatedDelta: DeltaRule,
    spec.Delta: DeltaRule,
    spec.GatedLinear: LinearAttention,
    KimiDelta: KimiDeltaRule,
    Hgrn: GatedRecurrence,
    combinators.HeadSplit: _head_split,
    combinators.TokenRoute: TokenRoute,
}
"""Description class -> module class, called as `module(description, width, project=...)`."""


def mixer(description: spec.Description, width: int, *, project: bool = True) -> Mixer[Any]:
    """The module of a description; `project=False` leaves the output projection to a head split."""
    return MIXERS[type(description)](description, width, project=project)
