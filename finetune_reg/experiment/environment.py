"""The software and hardware a run had."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import torch

from finetune_reg.paths import ROOT

PACKAGES = ("finetune_reg", "torch", "transformers", "numpy", "scipy", "scikit-learn")


def describe_environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Return versions, commit, device, threads, and `precision` as the dtype of forward passes, ready for JSON."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: version(package) for package in PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": precision,
        "threads": torch.get_num_threads(),
    }


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the peak of allocated GPU memory, or on the CPU the largest resident size of this process (MiB).

    None where the platform does not tell (Windows).
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        finished = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return finished.stdout.strip() or None
