"""How many notebooks run at a time on this machine."""

from __future__ import annotations

import os
from itertools import takewhile


def default_slots() -> int:
    """Return how many notebooks run at a time on this machine: one per GPU, else one per core."""
    return len(visible_gpus()) or os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine, as `CUDA_VISIBLE_DEVICES` names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, visible.split(","))))
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
