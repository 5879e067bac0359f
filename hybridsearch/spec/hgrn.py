"""The mixer of HGRN (2311.04823); counting as in `mixers`."""

from typing import Annotated, Literal

from pydantic import Field

from hybridsearch.spec.mixers import STATE_ELEMENT_BYTES, ConvWidth, Count, Description, tail_inputs


class Hgrn(Description):
    """Gated recurrence of every channel for itself: h = f h + (1 - f) i. No matrix state, hence no recall of pairs."""

    kind: Literal["hgrn"] = "hgrn"
    heads: Count
    """Groups of channels whose outputs are normed together; the recurrence does not know them."""
    head_dim: Count
    """Channels of a head."""
    short_conv: ConvWidth = 0
    """Width of the causal convolution on i; 0 for none. SiLU either way."""
    gate: bool = True
    """Whether the normed output is multiplied by SiLU of a gate."""
    least_forget: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Lower bound of f: HGRN lets upper layers remember longer by a bound that grows with depth."""

    @property
    def value_size(self) -> int:
        """Channels of one head's output."""
        return self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the recurrence."""
        return self.heads * self.head_dim

    def parameters(self, width: int) -> int:
        """Weights at this residual width: matrices, convolution, and the norm of the outputs."""
        return self._matrices(width) + self.short_conv * self.channels + self.head_dim

    def state_bytes(self, context: int, element_bytes: int = 2) -> int:
        """Decode memory of one sequence, in bytes; the same for every `context`."""
        return self.channels * (STATE_ELEMENT_BYTES + tail_inputs(self.short_conv) * element_bytes)

    def flops_per_token(self, width: int, context: int) -> int:
        """One decode step; the same for every `context`. The recurrence is element by element, and does not count."""
        return 2 * self._matrices(width)

    def _matrices(self, width: int) -> int:
        return width * self.channels * (3 + self.gate)
