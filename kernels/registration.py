"""How Triton kernels become operators of torch: opaque to torch.compile (no graph break), usable in a CUDA graph."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("hybridsearch", "FRAGMENT")  # type: ignore[no-untyped-call]
"""Operators are defined here directly: `custom_op` looks for aliases at every call, 0.5 ms on torch 2.11."""


def define(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """The operator `hybridsearch::name` with its implementation for all devices and the one that only finds shapes."""
    LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"hybridsearch::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.hybridsearch, name).default


def differentiate(name: str, keep: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Give `hybridsearch::name` its gradient: `keep` saves what `backward` needs."""
    torch.library.register_autograd(f"hybridsearch::{name}", backward, setup_context=keep, lib=LIBRARY)


def on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: makes that the device of `x`."""
    away = x.is_cuda and x.device.index != torch.cuda.current_device()
    return torch.cuda.device(x.device) if away else nullcontext()


def aligned(x: Tensor) -> Tensor:
    """`x`, contiguous and at a multiple of 16 bytes, as tile loads ask for."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def refuses_device(device: torch.device) -> str:
    """Why no Triton kernel can run on this device; empty if one can."""
    if device.type != "cuda":
        return f"needs cuda, found {device.type}"
    if not torch.cuda.is_available():
        return "needs cuda, found no such device"
    return "" if torch.cuda.get_device_capability(device)[0] >= 8 else "needs compute capability 8.0 or more"
