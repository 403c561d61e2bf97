"""The tasks as data: columns, labels, metrics, splits and where each can come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finetune_reg.errors import unknown_name

MetricName = Literal["accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]
Split = Literal["official", "development", "pooled"]
FOLDS = 5  # of the training rows, one held out to choose hyperparameters on


@dataclass(frozen=True)
class Task:
    """One sentence (pair) classification or regression task.

    Attributes:
        name: as in records, folders and commands.
        text_columns: one or two columns of text.
        label_names: class names by index; empty for regression.
        metrics: the first is the one tables report.
        validation_split: the split that papers report.
        hub: Hugging Face data set and configuration, or None.
        folders: names a local folder may have.
        embedded: part of pocket, the toy world that ships with the package.
        label_range: smallest and largest label of a regression task.
        n_splits: of a user's own task, see `own_task.py`: how many numbered splits of its rows there are.
    """

    name: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[MetricName, ...]
    validation_split: str = "validation"
    hub: tuple[str, str | None] | None = None
    folders: tuple[str, ...] = ()
    embedded: bool = False
    label_range: tuple[float, float] = (0.0, 5.0)
    n_splits: int = 0

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers, not classes."""
        return not self.label_names

    def scored_split(self, split: Split) -> str:
        """Return where the rows come from that a run is scored on; see `load_task`."""
        return "validation" if split == "development" else self.validation_split

    @property
    def n_outputs(self) -> int:
        """Width of the task head: the number of classes, or 1."""
        return len(self.label_names) or 1


_PAIR, _NLI = ("sentence1", "sentence2"), ("premise", "hypothesis")
_THREE_WAY = ("entailment", "neutral", "contradiction")


def _glue(name: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: MetricName, **options) -> Task:
    return Task(name, columns, labels, metrics, hub=("nyu-mll/glue", name), folders=(name,), **options)


def _pocket(name: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: MetricName) -> Task:
    return Task(name, columns, labels, metrics, embedded=True)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _pocket("acceptability", ("sentence",), ("unacceptable", "acceptable"), "matthews", "accuracy"),
        _pocket("entailment", _PAIR, ("entailment", "not_entailment"), "accuracy"),
        _pocket("paraphrase", _PAIR, ("not_equivalent", "equivalent"), "f1", "accuracy"),
        _pocket("similarity", _PAIR, (), "spearman", "pearson"),
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews", "accuracy"),
        _glue("sst2", ("sentence",), ("negative", "positive"), "accuracy"),
        _glue("mrpc", _PAIR, ("not_equivalent", "equivalent"), "f1", "accuracy"),
        _glue("stsb", _PAIR, (), "spearman", "pearson"),
        _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), "f1", "accuracy"),
        _glue("mnli", _NLI, _THREE_WAY, "accuracy", validation_split="validation_matched"),
        _glue("qnli", ("question", "sentence"), ("entailment", "not_entailment"), "accuracy"),
        _glue("rte", _PAIR, ("entailment", "not_entailment"), "accuracy"),
        _glue("wnli", _PAIR, ("not_entailment", "entailment"), "accuracy"),
        Task("snli", _NLI, _THREE_WAY, ("accuracy",), "test", ("stanfordnlp/snli", None), ("snli",)),
        Task("sick", _NLI, _THREE_WAY, ("accuracy",), "test", folders=("sick",)),
        Task(
            "scitail",
            _NLI,
            ("entails", "neutral"),
            ("accuracy",),
            "test",
            ("allenai/scitail", "tsv_format"),
            ("scitail",),
        ),
        Task("hans", _NLI, ("entailment", "non-entailment"), ("accuracy",), folders=("hans", "hans_regenerated")),
    )
}


def get_task(name: str, source: str = "pocket") -> Task:
    """Look a task up by name, in the table or, as a user's own, in the folder `source`.

    Raises:
        InputError: there is none of that name, or what describes a user's own is damaged.
    """
    if name in TASKS:
        return TASKS[name]
    from finetune_reg.tasks.own_task import find_own_task

    if (own := find_own_task(name, source)) is not None:
        return own
    raise unknown_name("task", name, TASKS)
