"""Adam without bias correction: what BertAdam computed, and a known cause of collapsed runs (Zhang et al. 2021)."""

from __future__ import annotations

import torch

FAR_STEP = 1e8  # 1 - beta ** FAR_STEP is exactly 1, and adding 1 to it in float32 changes nothing


def skip_bias_correction(optimizer: torch.optim.Optimizer) -> None:
    """Make a fresh Adam or AdamW use its moments uncorrected: `w <- w - lr m / (sqrt(v) + epsilon)`.

    Both corrections divide by `1 - beta^t`, which is 1 at a late step. So the moments start at zero, as always, at a
    late step. A move is `(1 - beta1^t) / sqrt(1 - beta2^t)` times the corrected one: with the usual betas 3.2 at the
    first update, at most 6.6 (the twelfth), 3.2 after 100 and 1.3 after 1,000.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            device = parameter.device if group.get("fused") or group.get("capturable") else "cpu"
            optimizer.state[parameter] = {
                "step": torch.tensor(FAR_STEP, dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
