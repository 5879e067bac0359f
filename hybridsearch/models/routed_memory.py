"""What token routing carries from token to token: kept chunks, the open chunk, the linear state before and inside it.

Keys and values of a chunk stay for good only if the chunk is typed softmax: then they become pages, one a linear head
and sequence, in one storage that all share. So the memory is exactly as large as the routing makes it.

Axes: B sequences, H linear heads with sizes K and V, G softmax heads per linear head, C tokens of a chunk, P pages, Ka
key size and Va value size of a softmax head.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from hybridsearch.models.memory import ConvolutionTail, Memory, size_in_bytes
from hybridsearch.spec.combinators import PAGE_ENTRY_BYTES, TokenRoute

SPARE = 8
"""Storage grows to the pages held and an eighth more, so that appending stays cheap and little lies idle."""


class OpenChunk(NamedTuple):
    """Keys [B, H G, C, Ka] and values [B, H G, C, Va] of the chunk that is being filled."""

    keys: Tensor
    values: Tensor


class Pages(Memory):
    """Keys [P, G, C, Ka] and values [P, G, C, Va] of softmax-typed chunks; `rows` [P] holds b H + h of each."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, count: int) -> None:
        self._keys, self._values, self._rows, self.count = keys, values, rows, count

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], *, like: Tensor) -> Self:
        """No pages; `shape` is (G, C, Ka, Va)."""
        group, chunk, key_size, value_size = shape
        rows = torch.empty(0, dtype=torch.int64, device=like.device)
        return cls(like.new_empty(0, group, chunk, key_size), like.new_empty(0, group, chunk, value_size), rows, 0)

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all pages, views."""
        return self._keys[: self.count], self._values[: self.count]

    @property
    def rows(self) -> Tensor:
        """The owners of all pages, a view."""
        return self._rows[: self.count]

    def append(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        """Add pages."""
        start, self.count = self.count, self.count + len(rows)
        if self.count > len(self._rows):
            capacity = self.count + self.count // SPARE
            self._keys, self._values = _grown(self._keys, start, capacity), _grown(self._values, start, capacity)
            self._rows = _grown(self._rows, start, capacity)
        self._keys[start : self.count] = keys
        self._values[start : self.count] = values
        self._rows[start : self.count] = rows

    def bytes(self) -> int:
        """Logical bytes of all sequences together: held pages and their owners, not capacity."""
        return sum(map(size_in_bytes, self.held)) + self.count * PAGE_ENTRY_BYTES

    def copy(self) -> Self:
        """An independent copy, with the same spare capacity."""
        return type(self)(self._keys.clone(), self._values.clone(), self._rows.clone(), self.count)


class RoutedMemory(Memory):
    """Decode memory of one token-routed mixer; `seen` tokens went in, the same number for every sequence."""

    def __init__(
        self,
        tail: ConvolutionTail,
        pages: Pages,
        open_chunk: OpenChunk,
        states: tuple[Tensor, Tensor, Tensor],
        scores: Tensor,
    ) -> None:
        self.tail, self.pages, self.open_chunk, self.scores = tail, pages, open_chunk, scores
        self.entering, self.running, self.decay = states
        self.seen = 0

    @classmethod
    def empty(cls, description: TokenRoute, batch: int, *, like: Tensor) -> Self:
        """Memory of no tokens."""
        linear, softmax, chunk = description.linear, description.softmax, description.chunk
        group = softmax.heads // linear.heads
        exact = torch.promote_types(like.dtype, torch.float32)
        state = like.new_zeros(batch, linear.heads, linear.head_dim, linear.value_size, dtype=exact)
        decays = linear.heads if linear.kind == "gated_delta" else 0
        scores = 0 if description.score == "last" else description.router_scores
        return cls(
            ConvolutionTail.empty(batch, linear.short_conv, linear.channels, like=like),
            Pages.empty((group, chunk, softmax.head_dim, softmax.value_size), like=like),
            OpenChunk(
                like.new_empty(batch, softmax.heads, chunk, softmax.head_dim),
                like.new_empty(batch, softmax.heads, chunk, softmax.value_size),
            ),
            (state, state.clone(), like.new_ones(batch, decays, dtype=exact)),
            like.new_zeros(batch, scores, dtype=exact),
        )

    @property
    def filled(self) -> int:
        """Tokens in the open chunk."""
        return self.seen % self.open_chunk.keys.shape[2]

    def open_tokens(self, count: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the open chunk's first `count` tokens, views."""
        return self.open_chunk.keys[:, :, :count], self.open_chunk.values[:, :, :count]

    def fill(
        self, k: Tensor, v: Tensor, softmax: Tensor, states: tuple[Tensor, Tensor, Tensor], scores: Tensor
    ) -> None:
        """Take in a whole prompt: k [B, T, A, Ka], v [B, T, A, Va], the types [B, N, H] of its complete chunks.

        `states` are the linear state before the open chunk, inside it, and the open chunk's decay [B, H] so far;
        `scores` are the router's pooled scores of the open chunk.
        """
        chunk = self.open_chunk.keys.shape[2]
        closed = softmax.shape[1] * chunk
        self.seen = k.shape[1]
        keys, values = (_chosen_chunks(x, softmax, chunk) for x in (k, v))
        sequence, _, head = softmax.nonzero(as_tuple=True)
        self.pages.append(keys, values, sequence * softmax.shape[2] + head)
        for room, x in zip(self.open_tokens(self.filled), (k, v), strict=True):
            room.copy_(x[:, closed:].transpose(1, 2))
        self.entering, self.running = states[:2]
        if self.decay.shape[1]:
            self.decay = states[2]
        self.scores = scores

    def close_chunk(self, softmax: Tensor, *, decay_through: bool) -> None:
        """Type the full open chunk, [B, H] true for softmax, and begin the next; the host reads the number of pages."""
        keys, values = (x.reshape(*softmax.shape, -1, *x.shape[2:])[softmax] for x in self.open_chunk)
        self.pages.append(keys, values, softmax.flatten().nonzero()[:, 0])
        left = self.entering
        if self.decay.shape[1]:
            left = left * self.decay[..., None, None] if decay_through else left
            self.decay = torch.ones_like(self.decay)
        self.entering = self.running = torch.where(softmax[..., None, None], left, self.running)
        self.scores = torch.zeros_like(self.scores)

    def bytes(self) -> int:
        """Logical bytes of all sequences together: tokens held, not the room for them."""
        parts = (*self.open_tokens(self.filled), self.entering, self.running, self.decay, self.scores)
        return self.tail.bytes() + self.pages.bytes() + sum(map(size_in_bytes, parts))

    def copy(self) -> Self:
        """An independent copy."""
        copy = type(self)(
            self.tail.copy(),
            self.pages.copy(),
            OpenChunk(*(x.clone() for x in self.open_chunk)),
            (self.entering.clone(), self.running.clone(), self.decay.clone()),
            self.scores.clone(),
        )
        copy.seen = self.seen
        return copy


def _chosen_chunks(x: Tensor, chosen: Tensor, chunk: int) -> Tensor:
    """[P, G, C, D]: of [B, T, H G, D] the chunks that `chosen` [B, N, H] marks, by sequence, then chunk, then head."""
    batch, complete, heads = chosen.shape
    chunks = x[:, : complete * chunk].reshape(batch, complete, chunk, heads, x.shape[2] // heads, x.shape[3])
    return chunks.permute(0, 1, 3, 4, 2, 5)[chosen]


def _grown(storage: Tensor, used: int, capacity: int) -> Tensor:
    larger = storage.new_empty(capacity, *storage.shape[1:])
    larger[:used] = storage[:used]
    return larger
