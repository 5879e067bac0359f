"""A whole architecture: layers of mixers and feed-forwards. It knows no vocabulary: that belongs to the task."""

from typing import Annotated

from pydantic import Field

from hybridsearch.spec.combinators import Mixer
from hybridsearch.spec.mixers import Count, Description


class Layer(Description):
    """Pre-norm residual block: norm, mixer, norm, SwiGLU feed-forward."""

    mixer: Mixer
    feed_forward: Annotated[int, Field(ge=0)]
    """Inner width of the SwiGLU; 0 leaves the feed-forward (and its norm) out."""


class Architecture(Description):
    """A hybrid language model without its vocabulary."""

    width: Count
    """Size of the residual stream."""
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    tied_embeddings: bool = True
    """Whether the output head reuses the embedding matrix."""
