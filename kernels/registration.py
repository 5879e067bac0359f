"""How Triton kernels become operators of torch: opaque to torch.compile (no graph break), usable in a CUDA graph."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

LIBRARY = torch.library.Library("hybridsearch", "FRAGMENT")  # type: ignore[no-untyped-call]
"""Operators are defined here directly: `custom_op` looks for aliases at every call, 0.5 ms on torch 2.11."""


class Operator:
    """An operator of torch that eager calls reach without torch's dispatcher: that costs more than two launches.

    Where something looks on (a compiler, a dispatch mode, a subclass of tensors), calls go to the operator.
    """

    def __init__(self, operator: Any, run: Callable[..., Any], mutates: bool) -> None:
        self.operator, self.run = operator, operator if mutates else run
        self.with_gradient: Callable[..., Any] = operator

    def __call__(self, *inputs: Any) -> Any:
        """All outputs; of those that are only kept for the backward pass, maybe none."""
        first = type(inputs[0])
        if torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or first not in (Tensor, Parameter):
            return self.operator(*inputs)
        return self.with_gradient(*inputs) if want_gradient(*inputs) else self.run(*inputs)


def want_gradient(*inputs: Any) -> bool:
    """Whether a backward pass can follow."""
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


OPERATORS: dict[str, Operator] = {}


def define(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Operator:
    """The operator `hybridsearch::name` with its implementation for all devices and the one that only finds shapes.

    Its schema has no defaults.
    """
    LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"hybridsearch::{name}", fake, lib=LIBRARY)
    # An input that is changed in place has its version counted by the dispatcher.
    OPERATORS[name] = Operator(getattr(torch.ops.hybridsearch, name).default, run, mutates="!" in schema)
    return OPERATORS[name]


def differentiate(
    name: str, keep: Callable[..., None], backward: Callable[..., Any], results: int | None = None
) -> None:
    """Give `hybridsearch::name` its gradient: `keep` saves what `backward` needs.

    Callers use the first `results` outputs, all if none; the others `keep` saves for `backward`, and eager calls do not
    return them. As `torch.library.register_autograd`, which takes 0.2 ms more for defaults and keywords not used here.
    """
    defined = OPERATORS[name]

    def once(ctx: Any, *d_outputs: Tensor | None) -> Any:
        if torch.is_grad_enabled():  # the gradient's own gradient would be zeros
            raise RuntimeError(f"hybridsearch::{name} has no second derivative: take its gradient without create_graph")
        return backward(ctx, *d_outputs)

    def node(run: Callable[..., Any], results: int | None) -> Any:
        def forward(ctx: Any, *inputs: Any) -> Any:
            outputs = run(*inputs)
            keep(ctx, inputs, outputs)
            return outputs if results is None else outputs[:results]

        members = {"forward": staticmethod(forward), "backward": staticmethod(once)}
        return type(f"{name}_with_gradient", (torch.autograd.Function,), members)

    def dispatched(*inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return defined.operator(*inputs)

    observed = node(dispatched, None)

    def run(*inputs: Any) -> Any:
        return observed.apply(*inputs) if want_gradient(*inputs) else dispatched(*inputs)

    LIBRARY.impl(name, run, "Autograd")  # type: ignore[no-untyped-call]
    defined.with_gradient = node(defined.run, results).apply


def on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: makes that the device of `x`."""
    away = x.is_cuda and x.device.index != torch.cuda.current_device()
    return torch.cuda.device(x.device) if away else nullcontext()


def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


_known_multiprocessors = cache(_multiprocessors)


def multiprocessors(device: torch.device) -> int:
    """How many a GPU has; eager calls ask its driver once, which takes 4 us."""
    if torch.compiler.is_compiling():  # which warns of caches
        return _multiprocessors(device)
    return _known_multiprocessors(device)


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
