"""What this machine is, as it stands beside every number measured on it, and which device a job runs on."""

import json
import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from hybridsearch.errors import InvalidSetting


def choose(name: str) -> torch.device:
    """The device called `auto` (a GPU if there is one), `cpu` or `cuda`.

    Raises:
        InvalidSetting: `cuda` where PyTorch sees no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidSetting("device cuda, but PyTorch sees no GPU here; set device to cpu, or install a CUDA build")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def use_threads(cpus: float) -> None:
    """Let torch compute with as many threads as a worker has cores, at least one."""
    threads = max(1, int(cpus))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@lru_cache
def describe(device: torch.device) -> str:
    """CPU, cores, threads, GPU and versions, as one line of JSON. No name of host or user."""
    facts: dict[str, str | int] = {
        "device": device.type,
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"gpu": properties.name, "gpu_bytes": properties.total_memory, "cuda": torch.version.cuda or "unknown"}
    return json.dumps(facts, sort_keys=True)


def _cpu_model() -> str:
    """As the kernel calls it; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
