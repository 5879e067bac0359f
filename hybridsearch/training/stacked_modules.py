"""Modules of equal shape as one module: what has weights becomes a batched version, all else is shared.

A stacked module of N takes [N B, ...] where each of the N would take [B, ...], member after member.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.kernels import dispatch
from hybridsearch.models.kimi_delta import ChannelDecayGate
from hybridsearch.models.memory import ConvolutionTail
from hybridsearch.models.parts import EPSILON, DecayGate, HeadNorms, RMSNorm, ShortConvolution


def stack(modules: Sequence[nn.Module]) -> nn.Module:
    """Modules of one structure as one; every weight has a first axis more, and the name that it had.

    Raises:
        NotImplementedError: a module has weights, and no stacked version.
    """
    first = modules[0]
    if type(first) in STACKED:
        return STACKED[type(first)](modules)
    if list(first.parameters(recurse=False)):
        raise NotImplementedError(f"{type(first).__name__} has weights of its own and no stacked version")
    shared = copy.copy(first)
    shared._modules = {
        name: None if child is None else stack([module.get_submodule(name) for module in modules])
        for name, child in first._modules.items()
    }
    return shared


class _Stacked(nn.Module):
    """The own weights of N modules, each as one parameter [N, ...]."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        for name, _ in modules[0].named_parameters(recurse=False):
            rows = [module.get_parameter(name).detach() for module in modules]
            self.register_parameter(name, nn.Parameter(torch.stack(rows)))


class _Linear(_Stacked):
    weight: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        count, outputs, inputs = self.weight.shape
        rows, bias, weight = x.reshape(count, -1, inputs), self._parameters.get("bias"), self.weight.mT
        y = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias[:, None], rows, weight)
        return y.view(*x.shape[:-1], outputs)


class _RMSNorm(_Stacked):
    weight: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        count, size = self.weight.shape
        normed = dispatch.rms_norm(x, None, EPSILON)
        return (normed.reshape(count, -1, size) * self.weight[:, None]).view(x.shape)


class _HeadNorms(_Stacked):
    query: nn.Parameter
    key: nn.Parameter

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(modules)
        first = modules[0]
        assert isinstance(first, HeadNorms)
        self._heads = first.heads

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip((self.query, self.key), self._heads, strict=True)
        weight = torch.cat([rows[:, None].expand(-1, heads, -1) for rows, heads in pairs], 1)
        normed = dispatch.rms_norm(x, None, EPSILON)
        return (normed.reshape(len(weight), -1, *weight.shape[1:]) * weight[:, None]).view(x.shape)


class _ShortConvolution(_Stacked):
    weight: nn.Parameter

    def forward(self, x: Tensor, tail: ConvolutionTail | None = None) -> Tensor:
        assert tail is None, "a stack is trained, not decoded"
        count, width, _ = self.weight.shape
        length = x.shape[1]
        padded = torch.unflatten(F.pad(x, (0, 0, width - 1, 0)), 0, (count, -1))
        weight = self.weight[:, None, :, None]
        y = padded[:, :, :length] * weight[:, :, 0]
        for i in range(1, width):
            y = torch.addcmul(y, padded[:, :, i : i + length], weight[:, :, i])
        return F.silu(y).flatten(0, 1)


class _DecayGate(_Stacked):
    a_log: nn.Parameter
    dt_bias: nn.Parameter

    def forward(self, a: Tensor) -> Tensor:
        wide = torch.promote_types(a.dtype, torch.float32)
        rows = a.to(wide).reshape(len(self.a_log), -1, a.shape[-1])
        decay: Tensor = -self.a_log.to(wide).exp()[:, None] * F.softplus(rows + self.dt_bias[:, None])
        return decay.view(a.shape)


class _ChannelDecayGate(_Stacked):
    a_log: nn.Parameter
    dt_bias: nn.Parameter

    def forward(self, a: Tensor) -> Tensor:
        wide = torch.promote_types(a.dtype, torch.float32)
        count, heads = self.a_log.shape
        steps = F.softplus(a.to(wide).reshape(count, -1, a.shape[-1]) + self.dt_bias[:, None])
        decay: Tensor = -self.a_log.to(wide).exp()[:, None, :, None] * steps.view(count, steps.shape[1], heads, -1)
        return decay.view(*a.shape[:-1], heads, -1)


STACKED: dict[type[nn.Module], type[_Stacked]] = {
    nn.Linear: _Linear,
    RMSNorm: _RMSNorm,
    HeadNorms: _HeadNorms,
    ShortConvolution: _ShortConvolution,
    DecayGate: _DecayGate,
    ChannelDecayGate: _ChannelDecayGate,
}
