"""Embedding, blocks, final norm and head. It knows no task, no loss and no sampling."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.models.block import Block
from hybridsearch.models.memory import MemoryGroup
from hybridsearch.models.parts import RMSNorm
from hybridsearch.spec.architecture import Architecture


class LanguageModel(nn.Module):
    """Tokens [B, T] to final-normed hidden states [B, T, width]; `logits` is apart, so few positions can be scored.

    Decoding: `hidden, memory = model.prefill(prompt)`, then `hidden, memory = model.step(tokens, memory)` per token,
    both best inside `torch.inference_mode()`.
    """

    def __init__(self, architecture: Architecture, vocabulary: int) -> None:
        super().__init__()
        self.architecture, self.vocabulary = architecture, vocabulary
        width = architecture.width
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(layer, width) for layer in architecture.layers)
        self.norm = RMSNorm(width)
        self.head = None if architecture.tied_embeddings else nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor, memory: MemoryGroup | None = None) -> Tensor:
        """Hidden states [B, T, width] of whole sequences [B, T]; an empty `memory` is filled."""
        x = self.embedding(tokens)
        parts: list[Any] = [None] * len(self.blocks) if memory is None else memory.parts
        for block, part in zip(self.blocks, parts, strict=True):
            x = block(x, part)
        hidden: Tensor = self.norm(x)
        return hidden

    @property
    def vocabulary_matrix(self) -> Tensor:
        """[vocabulary, width]: the head, or the embedding where they are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., width] -> [..., vocabulary]."""
        return F.linear(hidden, self.vocabulary_matrix)

    def empty_memory(self, batch: int) -> MemoryGroup:
        """Memory of `batch` sequences before their first token."""
        return MemoryGroup([block.mixer.empty_memory(batch) for block in self._blocks()])

    def prefill(self, tokens: Tensor) -> tuple[Tensor, MemoryGroup]:
        """Hidden states [B, T, width] of a prompt [B, T], and the memory after it."""
        memory = self.empty_memory(tokens.shape[0])
        return self.forward(tokens, memory), memory

    def step(self, tokens: Tensor, memory: MemoryGroup) -> tuple[Tensor, MemoryGroup]:
        """Hidden states [B, width] of one more token [B] each; `memory` is advanced in place and returned."""
        x: Tensor = self.embedding(tokens)
        for block, part in zip(self._blocks(), memory.parts, strict=True):
            x = block.step(x, part)
        hidden: Tensor = self.norm(x)
        return hidden, memory

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]
