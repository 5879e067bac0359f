"""The first weights, all in one place.

| module             | rule                                                                                     |
|--------------------|------------------------------------------------------------------------------------------|
| Embedding, Linear  | normal, standard deviation 0.02; bias 0                                                  |
| RMSNorm, HeadNorms | 1                                                                                        |
| ShortConvolution   | uniform in +-width^-0.5, as a depthwise torch Conv1d                                     |
| DecayGate          | A_log = log U(0, 16); dt_bias = softplus^-1(dt), dt log-uniform in [0.001, 0.1] (Mamba-2) |
| ChannelDecayGate   | the same, with a dt_bias a channel                                                       |

A parameter that no rule claims is an error of ours, so a new module with weights of its own needs its row here.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, nn

from hybridsearch.models.kimi_delta import ChannelDecayGate
from hybridsearch.models.parts import DecayGate, HeadNorms, RMSNorm, ShortConvolution
from hybridsearch.models.token_route import BranchMix

STANDARD_DEVIATION = 0.02


def initialise(model: nn.Module, generator: Generator) -> None:
    """Fill every parameter of `model`, in the order of its modules; same generator state, same weights."""
    with torch.no_grad():
        for name, module in model.named_modules():
            own = list(module.parameters(recurse=False))
            if not own:
                continue
            if type(module) not in RULES:
                raise RuntimeError(f"no rule for the first weights of `{name}` ({type(module).__name__})")
            RULES[type(module)](module, generator)


def _linear(module: nn.Linear, generator: Generator) -> None:
    module.weight.normal_(0.0, STANDARD_DEVIATION, generator=generator)
    if module.bias is not None:
        module.bias.zero_()


def _embedding(module: nn.Embedding, generator: Generator) -> None:
    module.weight.normal_(0.0, STANDARD_DEVIATION, generator=generator)


def _ones(module: nn.Module, generator: Generator) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.fill_(1.0)


def _convolution(module: ShortConvolution, generator: Generator) -> None:
    bound = module.weight.shape[0] ** -0.5
    module.weight.uniform_(-bound, bound, generator=generator)


def _decay_gate(module: DecayGate | ChannelDecayGate, generator: Generator) -> None:
    module.a_log.uniform_(1e-3, 16.0, generator=generator).log_()
    dt = module.dt_bias.uniform_(math.log(1e-3), math.log(0.1), generator=generator).exp_().clamp_(min=1e-4)
    module.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))


RULES: dict[type[nn.Module], Callable[[Any, Generator], None]] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    RMSNorm: _ones,
    HeadNorms: _ones,
    ShortConvolution: _convolution,
    DecayGate: _decay_gate,
    ChannelDecayGate: _decay_gate,
    BranchMix: _ones,
}
