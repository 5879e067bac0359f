"""Compiles the Triton kernels as the operators launch them, for Hopper, without a GPU: run by `test_offline_compile`.

    TRITON_INTERPRET=0 python offline_compile.py '[["bfloat16", 64, 64]]'

takes cases of dtype, key size and value size, and prints one JSON line a kernel: registers,
bytes spilled, bytes of shared memory, and the number of wgmma instructions.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from hybridsearch.kernels.kimi_delta import operators

KERNELS = (
    "pairs",
    "steep_pairs",
    "solve",
    "segment",
    "join",
    "output",
    "errors_backward",
    "pairs_backward",
    "inputs_backward",
    "step",
    "steep_inputs_backward",
)
ELEMENTS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


class Recorder:
    """Stands in for a kernel and keeps what it is launched with."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: object) -> Any:
        return lambda *arguments, **options: self.launches.append((self.kernel, arguments, options))


def record(dtype: torch.dtype, key_size: int, value_size: int) -> list[Launch]:
    """Every launch of training, inference and decoding, unsplit and in two segments."""
    launches: list[Launch] = []
    kept = {name: getattr(operators, f"{name}_kernel") for name in KERNELS}
    for name, kernel in kept.items():
        setattr(operators, f"{name}_kernel", Recorder(kernel, launches))
    q = torch.zeros(1, 256, 1, key_size, dtype=dtype)
    v = torch.zeros(1, 256, 1, value_size, dtype=dtype)
    decay, beta = torch.zeros(1, 256, 1, key_size), torch.zeros(1, 256, 1)
    state = torch.zeros(1, 1, key_size, value_size)
    for segments in (1, 2):
        saved = operators.kimi_delta(q, q, v, decay, beta, state, 1.0, segments, True)
        operators.kimi_delta_backward(v, state, q, q, beta, *saved[2:], 1.0, segments)
    operators.kimi_delta(q, q, v, decay, beta, None, 1.0, 1, False)
    token = (x[:, 0] for x in (q, q, v, decay, beta))
    operators.kimi_delta_step(*token, state, 1.0)
    for name, kernel in kept.items():
        setattr(operators, f"{name}_kernel", kernel)
    return launches


def source(launch: Launch) -> ASTSource:
    """The signature that Triton would find for these arguments."""
    kernel, arguments, options = launch
    names = kernel.arg_names
    constants = {name: options[name] for name in names if name in options}
    signature, attributes = dict.fromkeys(constants, "constexpr"), {}
    for position, (name, value) in enumerate(zip(names, arguments, strict=False)):
        if value is None:
            signature[name], constants[name] = "constexpr", None
        elif isinstance(value, TensorDescriptor):
            block = ", ".join(str(size) for size in value.block_shape)
            signature[name] = f"tensordesc<{ELEMENTS[value.base.dtype]}[{block}]>"
        elif isinstance(value, Tensor):
            signature[name] = f"*{ELEMENTS[value.dtype]}"
            attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def assembled(ptx: str) -> str:
    """What ptxas reports; Triton carries two, and only the second knows the newest PTX."""
    for name in ("ptxas", "ptxas-blackwell"):
        ptxas = Path(triton.__file__).parent / "backends/nvidia/bin" / name
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(ptx)
            file.flush()
            command = [str(ptxas), "-v", "-arch=sm_90a", file.name, "-o", "/dev/null"]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
        if not run.returncode:
            break
    return run.stderr


def compiled(launch: Launch) -> dict[str, Any]:
    options = {name: launch[2][name] for name in ("num_warps", "num_stages") if name in launch[2]}
    kernel = triton.compile(source(launch), target=GPUTarget("cuda", 90, 32), options=options)
    report = assembled(kernel.asm["ptx"])
    registers, spilled = re.search(r"Used (\d+) registers", report), re.search(r"(\d+) bytes spill stores", report)
    assert registers is not None and spilled is not None, report
    return {
        "kernel": launch[0].__name__,
        "registers": int(registers[1]),
        "spilled": int(spilled[1]),
        "shared": kernel.metadata.shared,
        "wgmma": kernel.asm["ptx"].count("wgmma.mma_async"),
    }


if __name__ == "__main__":
    for element, key_size, value_size in json.loads(sys.argv[1]):
        done = set()
        for launch in record(getattr(torch, element), key_size, value_size):
            variant = str(source(launch).hash())
            if variant not in done:
                done.add(variant)
                case = {"dtype": element, "key": key_size, "value": value_size}
                sys.stdout.write(json.dumps(case | compiled(launch)) + "\n")
                sys.stdout.flush()
