"""Without a GPU the Triton kernels run in Triton's interpreter; here it learns bfloat16.

The interpreter of Triton 3.6 to 3.9 keeps bfloat16 as raw 16-bit integers and calculates with those: products, sums and
comparisons come out as garbage without an error, and stores cut the mantissa off. Here bfloat16 values are float32
numbers rounded to the nearest bfloat16 after each operation that yields one, and packed only at loads and stores. Loop
bounds that are tensors work with numpy 2.4 again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Array = np.ndarray[Any, np.dtype[Any]]
SHARED_MEMORY = 232448
"""Bytes one program can have on Hopper."""


def _packed(values: Array) -> Array:
    """float32 -> bfloat16 bits, to nearest even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))


def _unpacked(bits: Array) -> Array:
    return (np.ascontiguousarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def _rounded(values: Array) -> Array:
    return _unpacked(_packed(values)).reshape(np.shape(values))


def _teach_bfloat16() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    handle: Any = interpreter.TensorHandle
    numpy_dtype: Any = interpreter._get_np_dtype

    def is_bfloat16(kind: Any) -> bool:
        return bool(kind.scalar == tl.bfloat16)

    def wide_dtype(kind: Any) -> Any:
        element = kind.element_ty if isinstance(kind, tl.block_type) else kind
        return np.dtype(np.float32) if element == tl.bfloat16 else numpy_dtype(kind)

    def load(original: Callable[..., Any]) -> Callable[..., Any]:
        def masked(self: Any, pointers: Any, mask: Any, other: Any, *rest: Any, **options: Any) -> Any:
            if pointers.get_element_ty() != tl.bfloat16:
                return original(self, pointers, mask, other, *rest, **options)
            shape = pointers.data.shape
            fill = np.zeros(shape, np.uint16) if other is None else _packed(np.broadcast_to(other.data, shape))
            places = np.ascontiguousarray(fill), np.dtype(np.uint16)
            bits = interpreter._interpreter.load(pointers.data, mask.data, *places)
            return handle(_unpacked(bits).reshape(shape), tl.bfloat16)

        return masked

    def store(original: Callable[..., Any]) -> Callable[..., Any]:
        def masked(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **options: Any) -> Any:
            if not is_bfloat16(value.dtype):
                return original(self, pointers, value, mask, *rest, **options)
            bits = np.ascontiguousarray(np.broadcast_to(_packed(value.data), pointers.data.shape))
            return interpreter._interpreter.store(pointers.data, bits, mask.data)

        return masked

    def cast(original: Callable[..., Any]) -> Callable[..., Any]:
        def converted(self: Any, source: Any, target: Any, *rest: Any) -> Any:
            if is_bfloat16(target):
                return handle(_rounded(source.data.astype(np.float32)), tl.bfloat16)
            if is_bfloat16(source.dtype):
                return handle(source.data.astype(wide_dtype(target)), target.scalar)
            return original(self, source, target, *rest)

        return converted

    def calculation(original: Callable[..., Any]) -> Callable[..., Any]:
        def rounded(self: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            narrow = is_bfloat16(result.dtype) and result.data.dtype == np.float32
            return handle(_rounded(result.data), tl.bfloat16) if narrow else result

        return rounded

    def bounds(original: Callable[..., Any]) -> Callable[..., Any]:
        def patch(tensor: Any, *rest: Any, **options: Any) -> Any:
            result = original(tensor, *rest, **options)
            tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])
            return result

        return patch

    interpreter._get_np_dtype = wide_dtype
    valid_size = getattr(interpreter, "_validate_np_data_size", None)
    if valid_size is not None:
        interpreter._validate_np_data_size = lambda data, kind: (
            data.dtype == np.float32 if kind == tl.bfloat16 else valid_size(data, kind)
        )
    wrappers = {"create_masked_load": load, "create_masked_store": store, "cast_impl": cast, "create_fp_to_fp": cast}
    wrappers |= dict.fromkeys(("binary_op", "unary_op", "ternary_op"), calculation)
    for name, wrapper in wrappers.items():
        if hasattr(builder, name):
            setattr(builder, name, wrapper(getattr(builder, name)))
    builder.get_bf16 = lambda self, value: handle(_rounded(np.array([value], np.float32)), tl.bfloat16)
    interpreter._patch_lang_tensor = bounds(interpreter._patch_lang_tensor)


if not torch.cuda.is_available():
    import triton

    if not triton.knobs.runtime.interpret:
        raise pytest.UsageError("triton was imported without TRITON_INTERPRET=1; tests/conftest.py sets it")
    _teach_bfloat16()


@pytest.fixture
def device() -> torch.device:
    """Where Triton kernels run in these tests: the GPU, or the CPU by the interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _compiled_for_hopper(folder: str, *cases: list[Any], spilled: int = 0) -> list[dict[str, Any]]:
    script = str(Path(__file__).with_name("offline_compile.py"))
    command = [sys.executable, script, folder, json.dumps(cases)]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert not run.returncode, run.stderr
    kernels: list[dict[str, Any]] = [json.loads(line) for line in run.stdout.splitlines()]
    for kernel in kernels:
        assert kernel["spilled"] <= spilled, kernel
        assert kernel["shared"] <= SHARED_MEMORY, kernel
    return kernels


@pytest.fixture
def hopper() -> Callable[..., list[dict[str, Any]]]:
    """Compiles a folder's kernels for Hopper, with or without a GPU (`offline_compile`); tells what each came to.

    Registers `spilled`, in bytes a thread, and shared memory are checked.
    """
    return _compiled_for_hopper
