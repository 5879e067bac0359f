"""The machine, the versions and the commit that a benchmark's numbers belong to."""

import os
import platform
import subprocess

import torch


def machine() -> dict[str, str]:
    """What the numbers belong to."""
    import triton

    found = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    found |= {"python": platform.python_version(), "cudnn": str(torch.backends.cudnn.version())}
    found["commit"] = (
        os.environ.get("COMMIT")
        or subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
    )
    try:
        import fla

        found["fla"] = fla.__version__
    except ImportError:
        pass
    return found
