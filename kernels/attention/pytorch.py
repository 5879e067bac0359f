"""Causal softmax attention through PyTorch's `scaled_dot_product_attention`.

Axes: B batch, T tokens, L tokens in memory, H query heads, G key-value heads (H % G == 0), K key size, V value size.
"""

import importlib
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

CUDA_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Fastest first on Hopper, where cuDNN trains 1.7-2.3 times as fast as the flash kernels that PyTorch brings."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """[B, T, H, K], [B, T, G, K], [B, T, G, V] -> [B, T, H, V]; `scale` none means K ** -0.5."""
    grouped = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    o = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    return o.transpose(1, 2)


def causal_attention_cuda(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """As `causal_attention`, trying PyTorch's backends in `CUDA_ORDER`."""
    repeats = q.shape[2] // k.shape[2]
    if repeats > 1 and q.dtype == torch.float32 and not torch.is_autocast_enabled(q.device.type):
        # The one kernel that takes float32 knows no groups; the other way holds all T x T scores.
        k, v = (x.repeat_interleave(repeats, dim=2) for x in (k, v))
    with sdpa_kernel(CUDA_ORDER, set_priority=True):
        return causal_attention(q, k, v, scale=scale)


def causal_attention_anywhere(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """As `causal_attention`, on CUDA in `CUDA_ORDER`."""
    return (causal_attention_cuda if q.is_cuda else causal_attention)(q, k, v, scale=scale)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def active_backend(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The first of `CUDA_ORDER` that takes causal attention of this head size on a CUDA device.

    It asks the device, so torch.compile takes the answer as a constant instead of tracing the question.
    """
    x = torch.empty(1, 1, 128, head_dim, device=device, dtype=dtype)
    inputs = cuda.SDPAParams(x, x, x, None, 0.0, True, False)
    checks = {
        "cuDNN": cuda.can_use_cudnn_attention,
        "flash": cuda.can_use_flash_attention,
        "efficient": cuda.can_use_efficient_attention,
    }
    return next((name for name, usable in checks.items() if usable(inputs)), "math")


def refuses_cudnn(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why cuDNN cannot serve this device, dtype and key size; empty if it can."""
    if device.type != "cuda":
        return f"needs cuda, found {device.type}"
    serves = not torch.cuda.is_available() or active_backend(device, dtype, head_dim) == "cuDNN"
    return "" if serves else f"cuDNN does not take {dtype} of head size {head_dim} here"


def refuses_flash_attention(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why flash-attn cannot serve this device, dtype and key size; empty if it can."""
    if not flash_attention_installed():
        return "flash-attn is not installed"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"needs float16 or bfloat16, found {dtype}"
    if head_dim > 256:
        return f"head size {head_dim} is above 256"
    return "" if device.type == "cuda" else f"needs cuda, found {device.type}"


def flash_attention_installed() -> bool:
    """Whether the package flash-attn can be imported."""
    return find_spec("flash_attn") is not None


def flash_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """As `causal_attention`, by the package flash-attn (fp16 and bf16 on CUDA)."""
    o: Tensor = importlib.import_module("flash_attn").flash_attn_func(q, k, v, softmax_scale=scale, causal=True)
    return o


def attention_step(q: Tensor, keys: Tensor, values: Tensor, *, scale: float | None = None) -> Tensor:
    """One query [B, H, K] over all of keys [B, G, L, K] and values [B, G, L, V] -> [B, H, V].

    The H / G query heads of a group stand in the place of query tokens, so nothing is repeated and no mask is needed.
    """
    batch, heads, size = q.shape
    groups = keys.shape[1]
    o = scaled_dot_product_attention(q.reshape(batch, groups, heads // groups, size), keys, values, scale=scale)
    return o.reshape(batch, heads, values.shape[-1])


def reference(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """As `causal_attention`, by its definition: the oracle of the tests."""
    length, repeats = q.shape[1], q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(repeats, dim=2) for x in (k, v))
    scores = torch.einsum("bihk,bjhk->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    ahead = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    return torch.einsum("bhij,bjhv->bihv", scores.masked_fill(ahead, -torch.inf).softmax(-1), v)
