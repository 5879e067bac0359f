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
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Array = np.ndarray[Any, np.dtype[Any]]
SHARED_MEMORY = 232448
"""Bytes one program can have on Hopper."""
CASES_A_PROCESS = 4
"""Of those compiled for Hopper; each process first imports torch and Triton for 3 s."""


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


class Compilations:
    """What the collected tests want compiled for Hopper, compiled beside the other tests: alone it takes minutes."""

    def __init__(self) -> None:
        self.workers = ThreadPoolExecutor(os.cpu_count())
        self.processes: list[subprocess.Popen[str]] = []
        self.parts: dict[str, list[Future[list[dict[str, Any]]]]] = {}

    def start(self, folder: str, cases: list[list[Any]]) -> None:
        """Compile a folder's kernels for these cases, a few in each process."""
        parts = (cases[first : first + CASES_A_PROCESS] for first in range(0, len(cases), CASES_A_PROCESS))
        self.parts[folder] = [self.workers.submit(self._run, folder, part) for part in parts]

    def _run(self, folder: str, cases: list[list[Any]]) -> list[dict[str, Any]]:
        script = str(Path(__file__).with_name("offline_compile.py"))
        command = [sys.executable, script, folder, json.dumps(cases)]
        environment = {**os.environ, "TRITON_INTERPRET": "0"}
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        self.processes.append(process)
        output, complaint = process.communicate()
        assert not process.returncode, complaint
        return [json.loads(line) for line in output.splitlines()]

    def kernels(self, folder: str, *cases: list[Any], spilled: int = 0) -> list[dict[str, Any]]:
        """What the kernels of these cases came to; spilled bytes and shared memory are checked."""
        found = [kernel for part in self.parts[folder] for kernel in part.result() if kernel["case"] in cases]
        for kernel in found:
            assert kernel["spilled"] <= spilled, kernel
            assert kernel["shared"] <= SHARED_MEMORY, kernel
        return found

    def stop(self) -> None:
        """Leave nothing running when the tests end early."""
        self.workers.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.kill()


compilations = Compilations()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start to compile the `CASES` of every file whose tests want `hopper`."""
    if session.config.option.collectonly:
        return
    for item in session.items:
        if isinstance(item, pytest.Function) and "hopper" in item.fixturenames:
            item.add_marker(pytest.mark.timeout(1200))  # waits for what is compiled before
            if item.path.parent.name not in compilations.parts:
                compilations.start(item.path.parent.name, [list(case) for case in item.module.CASES])


def pytest_sessionfinish() -> None:
    """End what still compiles."""
    compilations.stop()


@pytest.fixture
def hopper(request: pytest.FixtureRequest) -> Callable[..., list[dict[str, Any]]]:
    """What this folder's kernels came to, compiled for Hopper with or without a GPU (`offline_compile`).

    Takes some of the file's `CASES`, and the bytes that a thread may spill.
    """
    return partial(compilations.kernels, request.path.parent.name)
