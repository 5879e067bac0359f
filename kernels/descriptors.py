"""How Triton kernels are given tiles of tensors: by descriptors, which Hopper loads and stores by TMA; and products."""

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


def token_tiles(x: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """Tiles [1, rows, columns] of [B, T, H D]; what lies behind the last token of a sequence loads as zeros."""
    batch, tokens, heads, size = x.shape
    width = heads * size
    return TensorDescriptor(x, [batch, tokens, width], [tokens * width, width, 1], [1, rows, columns])


def flat_tiles(x: Tensor, rows: int, columns: int | None = None) -> TensorDescriptor:
    """Tiles [rows, columns], by default of whole rows, of a tensor seen as a matrix of its last axis."""
    size = x.shape[-1]
    return TensorDescriptor(x, [x.numel() // size, size], [size, 1], [rows, size if columns is None else columns])


def product_precision(dtype: torch.dtype) -> str:
    """How float32 tiles are multiplied: three tf32 products keep its accuracy (1e-6), one (3e-4) serves bfloat16."""
    return "tf32x3" if dtype == torch.float32 else "tf32"
