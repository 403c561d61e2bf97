"""Tasks: the table, loading, frozen subsets, metrics and batches."""

from finetune_reg.tasks.batching import encode, evaluation_loader, training_loader
from finetune_reg.tasks.loading import TaskData, load_split, load_task
from finetune_reg.tasks.metrics import evaluate_predictions, majority_score
from finetune_reg.tasks.task_table import TASKS, Task, get_task

__all__ = [
    "TASKS",
    "Task",
    "TaskData",
    "encode",
    "evaluate_predictions",
    "evaluation_loader",
    "get_task",
    "load_split",
    "load_task",
    "majority_score",
    "training_loader",
]
