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
from hybridsearch.models.parts import EPSILON, DecayGate, GatedNorm, HeadNorms, RMSNorm, ShortConvolution
from hybridsearch.models.token_route import BranchMix


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
    """The own weights of N modules, each as one parameter [N, ...], and their parts, stacked."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        for name, _ in modules[0].named_children():
            self.register_module(name, stack([module.get_submodule(name) for module in modules]))
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


class _GatedNorm(_Stacked):
    norm: nn.Module

    def forward(self, o: Tensor, gate: Tensor | None) -> Tensor:
        normed: Tensor = self.norm(o).flatten(-2)
        return normed if gate is None else normed * F.silu(gate)


class _BranchMix(_Stacked):
    def forward(self, softmax_out: Tensor, linear_out: Tensor, queries: Tensor, gate: Tensor | None) -> Tensor:
        if "norms" in self._modules:
            norms = self.get_submodule("norms")
            softmax_out, linear_out = norms.get_submodule("0")(softmax_out), norms.get_submodule("1")(linear_out)
        share = self._share(queries)
        if share is None:
            mixed = softmax_out + linear_out
        else:
            count, heads = len(share), linear_out.shape[-2]
            linear, softmax = (x.reshape(count, -1, heads, x.shape[-1]) for x in (linear_out, softmax_out))
            mixed = torch.lerp(linear, softmax, share[..., None]).view(linear_out.shape)
        mixed = mixed.flatten(-2)
        return mixed if gate is None else mixed * F.silu(gate)

    def _share(self, queries: Tensor) -> Tensor | None:
        """Weight of the softmax branch, [N, B T, A] or [N, 1, A]."""
        if "of_query" in self._modules:
            of_query = self.get_submodule("of_query")
            softmax, linear = of_query(queries).chunk(2, -1)
            share: Tensor = (softmax - linear).sigmoid()
            return share.reshape(len(of_query.get_parameter("weight")), -1, share.shape[-1])
        if "logits" in self._parameters:
            softmax, linear = self.get_parameter("logits").unbind(1)
            return (softmax - linear).sigmoid()[:, None]
        return None


STACKED: dict[type[nn.Module], type[_Stacked]] = {
    nn.Linear: _Linear,
    RMSNorm: _RMSNorm,
    HeadNorms: _HeadNorms,
    ShortConvolution: _ShortConvolution,
    DecayGate: _DecayGate,
    GatedNorm: _GatedNorm,
    BranchMix: _BranchMix,
    ChannelDecayGate: _ChannelDecayGate,
}
