"""Records of runs that were never made, to test what comes after training."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from finetune_reg.experiment.records import RunRecord
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.tasks import get_task

ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "Linux",
    "finetune_reg": "0.1.0",
    "torch": "2.13.0",
    "commit": "abc123",
    "uncommitted_changes": False,
    "device": "cpu",
    "dtype": "float32",
    "threads": 1,
}


def recorded_run(
    task: str = "rte",
    method: str = "vanilla",
    seed: int = 0,
    score: float | None = 0.6,
    status: str = "ok",
    majority_score: float | None = 0.5,
    forward_passes: int | None = 100,
    method_hyperparameters: dict[str, Any] | None = None,
    **settings: Any,
) -> RunRecord:
    """A record whose score rose to `score` in two evaluations."""
    chosen = RunSettings(task=task, method=method, method_hyperparameters=method_hyperparameters or {}, **settings)
    chosen = chosen.with_seed(seed)
    metric = get_task(task).metrics[0]
    scores = [] if score is None else [score - 0.1, score]
    return RunRecord(
        run_id=chosen.run_id,
        settings=asdict(chosen),
        status=status,
        metric=metric,
        score=score,
        best_score=score,
        below_majority=None if status == "failed" else score is None or score <= majority_score,
        majority_score=majority_score,
        history=[{"epoch": i + 1, "update": 10 * i, "train_loss": 0.5, metric: s} for i, s in enumerate(scores)],
        subset={"row_ids": [1, 2], "content_hash": f"hash-of-{task}"},
        weights_hash="weights",
        n_parameters=1_000_000,
        forward_passes=forward_passes,
        backward_passes=100,
        wall_seconds=36.0,
        peak_memory_mb=500.0,
        environment=ENVIRONMENT,
        error=None if status == "ok" else "The loss is nan at update 3: lower the learning rate.",
        finished_at="2026-01-02T03:04:05+00:00",
    )
