"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers, spills and shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_MEMORY = 232448
"""Bytes one program can have on Hopper."""
SPILLED, SPILLED_WHERE_STEEP = 64, 512
"""Bytes a thread; more in the kernels of steep chunks, which work on several sizes of blocks."""


@pytest.mark.parametrize("size", [64, 128])
def test_kernels_fit_hopper(size: int) -> None:
    script = str(Path(__file__).with_name("offline_compile.py"))
    command = [sys.executable, script, json.dumps([["bfloat16", size, size]])]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert not run.returncode, run.stderr
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    assert len({kernel["kernel"] for kernel in kernels}) == 11
    for kernel in kernels:
        steep = kernel["kernel"].startswith("steep")
        assert kernel["spilled"] <= (SPILLED_WHERE_STEEP if steep else SPILLED), kernel
        assert kernel["shared"] <= SHARED_MEMORY, kernel
    # the tensor cores are reached by wgmma, not by the slower mma
    assert all(kernel["wgmma"] for kernel in kernels if kernel["kernel"] == "inputs_backward_kernel")
