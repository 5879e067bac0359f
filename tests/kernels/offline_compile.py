"""Compiles Triton kernels as their operators launch them, for Hopper, without a GPU: run by the `hopper` fixture.

    TRITON_INTERPRET=0 python tests/kernels/offline_compile.py gated_delta '[["bfloat16", 64, 64, true]]'

takes a folder beside this file and the arguments of some calls of `launch_all` in its `launches.py`, and prints one
JSON line a kernel: registers, bytes spilled, bytes of shared memory, the number of wgmma instructions, and how many
float32 multiplications of the PTX the machine code does without.
"""

import importlib.util
import json
import os
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

ELEMENTS = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.int64: "i64",
}
Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


class Recorder:
    """Stands in for a kernel and keeps what it is launched with."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: object) -> Any:
        return lambda *arguments, **options: self.launches.append((self.kernel, arguments, options))


def record(folder: Any, case: list[Any]) -> list[Launch]:
    """Every launch of the kernels in `folder.operators`."""
    launches: list[Launch] = []
    kept = {name: kernel for name, kernel in vars(folder.operators).items() if name.endswith("_kernel")}
    for name, kernel in kept.items():
        setattr(folder.operators, name, Recorder(kernel, launches))
    folder.launch_all(*case)
    for name, kernel in kept.items():
        setattr(folder.operators, name, kernel)
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
            if isinstance(value, int) and not value % 16 and not kernel.params[position].do_not_specialize:
                attributes[(position,)] = [["tt.divisibility", 16]]
    for name in names:  # what a launch leaves out is none
        if name not in signature:
            signature[name], constants[name] = "constexpr", None
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


def merged(kernel: Any) -> int:
    """Multiplications of the PTX that the machine code lacks; below 0 where ptxas unrolled a loop.

    ptxas takes two equal expressions of an accumulator for one, although products were added to it in place (wgmma)
    between them: then a whole tile's multiplications are missing, and a sum is wrong.
    """
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        code = subprocess.run([str(tool), file.name], capture_output=True, text=True, check=True).stdout
    return len(re.findall(r"(?:fma\.rn|mul)\.f32", kernel.asm["ptx"])) - len(re.findall(r"\bF(?:FMA|MUL)\b", code))


def compiled(launch: Launch) -> dict[str, Any]:
    options = {name: launch[2][name] for name in ("num_warps", "num_stages", "maxnreg") if launch[2].get(name)}
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
        "merged": merged(kernel),
    }


def main(name: str, cases: list[list[Any]]) -> None:
    spec = importlib.util.spec_from_file_location("launches", Path(__file__).parent / name / "launches.py")
    assert spec is not None and spec.loader is not None
    folder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(folder)
    for case in cases:
        done = set()
        for launch in record(folder, case):
            variant = str(source(launch).hash())
            if variant not in done:
                done.add(variant)
                sys.stdout.write(json.dumps({"case": case} | compiled(launch)) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    os.nice(10)  # runs beside other tests
    main(sys.argv[1], json.loads(sys.argv[2]))
