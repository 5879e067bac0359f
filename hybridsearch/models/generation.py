"""Tokens from a model, one after the other: prefill, then steps. It knows no text."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridsearch.errors import InvalidSetting
from hybridsearch.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The limits apply in order: `top_k`, then `top_p`.

    Raises:
        InvalidSetting: a value is out of its range.
    """

    temperature: float = 0.8
    """Logits are divided by it; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Only the k likeliest tokens."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach this probability (Holtzman et al., 1904.09751)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise InvalidSetting(f"temperature {self.temperature:g} is negative or not finite; use 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise InvalidSetting(f"top-k {self.top_k} leaves no token; use 1 or more")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise InvalidSetting(f"top-p {self.top_p:g} is not above 0 and up to 1")


def generate(
    model: LanguageModel, prompt: Tensor, count: int, sampling: Sampling, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Yield `count` times the next tokens [B] after a prompt [B, T], T >= 1.

    `generator` must be on the model's device; at temperature 0 it is not used.
    """
    with torch.inference_mode():
        hidden, memory = model.prefill(prompt)
        tokens = choose(model.logits(hidden[:, -1]), sampling, generator)
    for left in range(count - 1, -1, -1):
        yield tokens
        if left:
            with torch.inference_mode():
                hidden, memory = model.step(tokens, memory)
                tokens = choose(model.logits(hidden), sampling, generator)


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """Draw tokens [B] from logits [B, vocabulary]."""
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1)
    scaled = logits.float() / sampling.temperature
    order = scaled.sort(dim=-1, descending=True)
    ranked = order.values
    if sampling.top_k is not None:
        ranked[:, sampling.top_k :] = float("-inf")
    if sampling.top_p is not None:
        share = ranked.softmax(dim=-1)
        # A token stays while those before it are short of p: so the likeliest always stays.
        ranked = ranked.masked_fill(share.cumsum(dim=-1) - share >= sampling.top_p, float("-inf"))
    drawn = torch.multinomial(ranked.softmax(dim=-1), 1, generator=generator)
    return order.indices.gather(-1, drawn).squeeze(-1)
