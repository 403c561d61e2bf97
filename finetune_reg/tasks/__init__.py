"""Tasks: the table, loading, frozen subsets, metrics and batches."""

from finetune_reg.tasks.batching import encode, evaluation_loader, training_loader
from finetune_reg.tasks.loading import TaskData, load_split, load_task
from finetune_reg.tasks.metrics import evaluate_predictions, evaluate_transfer, label_map, majority_score
from finetune_reg.tasks.task_table import TASKS, Task, get_task

__all__ = [
    "TASKS",
    "Task",
    "TaskData",
    "encode",
    "evaluate_predictions",
    "evaluate_transfer",
    "evaluation_loader",
    "get_task",
    "label_map",
    "load_split",
    "load_task",
    "majority_score",
    "training_loader",
]
