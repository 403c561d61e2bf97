"""The two parts of a training loss, for the log."""

from __future__ import annotations

from typing import Any

import torch


class LossParts:
    """Sums of the task's loss and of the whole loss since the last log, left on the device until then."""

    def __init__(self) -> None:
        self.n_updates = 0
        self._task, self._whole = torch.zeros(()), torch.zeros(())

    def add(self, task_loss: torch.Tensor, whole_loss: torch.Tensor) -> None:
        """Add those of a micro-batch, each divided by the number of micro-batches."""
        self._task = self._task.to(task_loss.device) + task_loss.detach()
        self._whole = self._whole.to(whole_loss.device) + whole_loss.detach()

    def means(self, accelerator: Any) -> dict[str, float]:
        """Return the means over the updates, and over the processes, all of which call this."""
        sums = accelerator.reduce(torch.stack([self._task, self._whole]), "mean")
        task, whole = sums.div(self.n_updates).tolist()
        return {"task_loss": task, "method_loss": whole - task}
