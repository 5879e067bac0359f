import inspect

import pytest
import torch

from hybridsearch.kernels import dispatch
from hybridsearch.kernels.attention import pytorch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_every_operation_has_a_typed_function_and_a_way_that_always_serves() -> None:
    for operation, ways in dispatch.TABLE.items():
        assert inspect.isfunction(getattr(dispatch, operation))
        for device in (CPU, CUDA, torch.device("meta")):
            assert not ways[-1].refuses(device, torch.float64, 7), operation


@pytest.mark.parametrize("operation", dispatch.TABLE)
def test_every_way_takes_what_the_function_passes(operation: str) -> None:
    ours = inspect.signature(getattr(dispatch, operation)).parameters
    for way in dispatch.TABLE[operation]:
        theirs = inspect.signature(way.function).parameters
        assert set(ours) <= set(theirs), way.name


def test_describe_says_what_serves_and_why_not_the_faster() -> None:
    rows = {operation: (name, reason) for operation, name, reason in dispatch.describe(CPU)}
    assert set(rows) == set(dispatch.TABLE)
    name, reason = rows["causal_attention"]
    assert name == "torch sdpa"
    assert "needs cuda, found cpu" in reason
    assert rows["short_conv"] == ("torch, own backward", "triton: needs cuda, found cpu")
    cuda = {operation: name for operation, name, _ in dispatch.describe(CUDA, torch.bfloat16)}
    assert cuda["causal_attention"] == "torch sdpa by cuDNN"
    assert cuda["short_conv"] == ("triton" if torch.cuda.is_available() else "torch")


def test_flash_attention_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    flash = dispatch.TABLE["causal_attention"][1]
    assert flash.refuses(CUDA, torch.bfloat16, 64) == "flash-attn is not installed"
    monkeypatch.setattr(pytorch, "flash_attention_installed", lambda: True)
    assert flash.refuses(CUDA, torch.bfloat16, 64) == ""
    assert "float32" in flash.refuses(CUDA, torch.float32, 64)
    assert "512" in flash.refuses(CUDA, torch.bfloat16, 512)
    assert "cpu" in flash.refuses(CPU, torch.bfloat16, 64)
