"""What a mixer carries from token to token while decoding: caches, rings, recurrent states, convolution tails.

A memory is made empty (`Mixer.empty_memory`), filled by `Mixer.inner(x, memory)` with a whole prompt, and advanced in
place by `Mixer.inner_step`. `bytes()` is the logical size: what the held tokens and states need at the dtype in which
they are stored, for all sequences of the batch together; spare capacity does not count.

Axes: B sequences, G key-value heads, T tokens, K key size, V value size, C channels of a convolution.
"""

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

BLOCK = 256
"""Tokens by which a cache grows: at 4096 tokens one step in 256 copies it, under 1 % of what attention reads."""


class Memory(ABC):
    """Decode memory of one mixer (or of a whole model) for B sequences."""

    @abstractmethod
    def bytes(self) -> int:
        """Logical bytes of all sequences together."""

    @abstractmethod
    def copy(self) -> Self:
        """An independent copy, so that one prefilled prompt can be continued more than once."""


class ConvolutionTail(Memory):
    """The last width - 1 inputs of a causal convolution, [B, width - 1, C]; zeros stand for what was before."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    @classmethod
    def empty(cls, batch: int, width: int, channels: int, *, like: Tensor) -> Self:
        """A tail of zeros; `width` 0 or 1 keeps nothing."""
        return cls(like.new_zeros(batch, max(width - 1, 0), channels))

    def follow(self, x: Tensor) -> None:
        """Take the last inputs of a whole prompt [B, T, C]."""
        kept, length = self.inputs.shape[1], x.shape[1]
        joined = torch.cat((self.inputs, x[:, max(length - kept, 0) :].to(self.inputs.dtype)), dim=1)
        self.inputs = joined[:, joined.shape[1] - kept :]

    def bytes(self) -> int:
        """Logical bytes of all sequences together."""
        return size_in_bytes(self.inputs)

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(self.inputs.clone())


class KeyValueCache(Memory):
    """Keys [B, G, T, K] and values [B, G, T, V] of every token so far, in storage that grows by `BLOCK` tokens."""

    def __init__(self, keys: Tensor, values: Tensor, length: int, tail: ConvolutionTail) -> None:
        self._keys, self._values, self.length, self.tail = keys, values, length, tail

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], tail: ConvolutionTail, *, like: Tensor) -> Self:
        """A cache of no tokens; `shape` is (B, G, K, V)."""
        batch, groups, key_size, value_size = shape
        return cls(like.new_empty(batch, groups, 0, key_size), like.new_empty(batch, groups, 0, value_size), 0, tail)

    @property
    def keys(self) -> Tensor:
        """The held keys, [B, G, length, K], a view."""
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor:
        """The held values, [B, G, length, V], a view."""
        return self._values[:, :, : self.length]

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add tokens: keys [B, G, n, K] and values [B, G, n, V]."""
        start, self.length = self.length, self.length + keys.shape[2]
        if self.length > self._keys.shape[2]:
            capacity = -(-self.length // BLOCK) * BLOCK
            self._keys = grown(self._keys, start, capacity)
            self._values = grown(self._values, start, capacity)
        self._keys[:, :, start : self.length] = keys
        self._values[:, :, start : self.length] = values

    def bytes(self) -> int:
        """Logical bytes of all sequences together: held tokens, not capacity, and the convolution's tail."""
        return size_in_bytes(self.keys) + size_in_bytes(self.values) + self.tail.bytes()

    def copy(self) -> Self:
        """An independent copy, with the same spare capacity."""
        return type(self)(self._keys.clone(), self._values.clone(), self.length, self.tail.copy())


class KeyValueRing(Memory):
    """Keys and values of the first `sinks` tokens and of the last `window` others; the order in storage is free.

    Attention over a set does not depend on its order, and every held token is visible to the next query once the
    query's own has been written: while fewer than sinks + window tokens were seen, the window covers all of them.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, seen: int, sinks: int) -> None:
        self._keys, self._values, self.seen, self._sinks = keys, values, seen, sinks

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], *, window: int, sinks: int, like: Tensor) -> Self:
        """A ring of no tokens; `shape` is (B, G, K, V)."""
        batch, groups, key_size, value_size = shape
        slots = window + sinks
        keys, values = (like.new_empty(batch, groups, slots, size) for size in (key_size, value_size))
        return cls(keys, values, seen=0, sinks=sinks)

    @property
    def length(self) -> int:
        """Tokens held."""
        return min(self.seen, self._keys.shape[2])

    @property
    def keys(self) -> Tensor:
        """The held keys, [B, G, length, K], a view."""
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor:
        """The held values, [B, G, length, V], a view."""
        return self._values[:, :, : self.length]

    def append(self, key: Tensor, value: Tensor) -> None:
        """Add one token, [B, G, 1, K] and [B, G, 1, V], over the oldest that is no sink."""
        slot = self._slot(self.seen)
        self._keys[:, :, slot : slot + 1] = key
        self._values[:, :, slot : slot + 1] = value
        self.seen += 1

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Take the tokens that the next query can see from a prompt [B, G, T, K or V]; the ring is empty before."""
        total, slots = keys.shape[2], self._keys.shape[2]
        first = max(self._sinks, total - (slots - self._sinks))
        held = [*range(min(self._sinks, total)), *range(first, total)]
        source = torch.tensor(held, dtype=torch.long, device=keys.device)
        target = torch.tensor([self._slot(token) for token in held], dtype=torch.long, device=keys.device)
        self._keys[:, :, target] = keys[:, :, source].to(self._keys.dtype)
        self._values[:, :, target] = values[:, :, source].to(self._values.dtype)
        self.seen = total

    def _slot(self, token: int) -> int:
        window = self._keys.shape[2] - self._sinks
        return token if token < self._sinks else self._sinks + (token - self._sinks) % window

    def bytes(self) -> int:
        """Logical bytes of all sequences together: held tokens only."""
        return size_in_bytes(self.keys) + size_in_bytes(self.values)

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(self._keys.clone(), self._values.clone(), seen=self.seen, sinks=self._sinks)


class RecurrentState(Memory):
    """The state [B, H, K, V] (float32, or float64 in a float64 model) of a linear mixer, and its convolution's tail."""

    def __init__(self, state: Tensor, tail: ConvolutionTail) -> None:
        self.state, self.tail = state, tail

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], tail: ConvolutionTail, *, like: Tensor) -> Self:
        """A state of zeros; `shape` is (B, H, K, V)."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return cls(torch.zeros(shape, dtype=dtype, device=like.device), tail)

    def bytes(self) -> int:
        """Logical bytes of all sequences together."""
        return size_in_bytes(self.state) + self.tail.bytes()

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(self.state.clone(), self.tail.copy())


class MemoryGroup(Memory):
    """Memories side by side: the layers of a model, or the branches of a mixer."""

    def __init__(self, parts: list[Memory]) -> None:
        self.parts = parts

    def bytes(self) -> int:
        """Logical bytes of all parts and sequences together."""
        return sum(part.bytes() for part in self.parts)

    def copy(self) -> Self:
        """An independent copy of every part."""
        return type(self)([part.copy() for part in self.parts])


def size_in_bytes(tensor: Tensor) -> int:
    """Bytes of the elements that a tensor (or view) shows."""
    return tensor.numel() * tensor.element_size()


def grown(storage: Tensor, used: int, capacity: int) -> Tensor:
    """Storage [B, G, capacity, D] with the first `used` tokens of `storage` copied."""
    batch, groups, _, size = storage.shape
    larger = storage.new_empty(batch, groups, capacity, size)
    larger[:, :, :used] = storage[:, :, :used]
    return larger
