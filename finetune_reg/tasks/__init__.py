"""Tasks: what they are, their rows, their scores.

task_table.py  every task: columns, labels, metrics
loading.py     rows from pocket, a folder or the hub; frozen subsets
batching.py    rows -> tokens -> padded batches
metrics.py     scores, those of constant answers among them
"""

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
