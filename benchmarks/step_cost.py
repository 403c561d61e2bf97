"""Time of one training step of each method relative to vanilla's, interleaved in one process.

    python benchmarks/step_cost.py [--pairs 15] [--batch-size 16] [--length 64]

Model: a BERT of 6 layers, width 384 (22.7 M parameters), random weights, random tokens, one torch thread, float32.
After two warm-up pairs, steps alternate vanilla, method, vanilla, method, ...; the table has the median and range of
the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.utils import clip_grad_norm_
from transformers import BertConfig, BertForSequenceClassification

from finetune_reg.method import FineTuningMethod, TrainingContext
from finetune_reg.methods import L2SP, Mixout, PretrainedWeightDecay, Vanilla

METHODS = {
    "vanilla again (control)": Vanilla(),
    "vanilla, dropout 0": Vanilla(dropout=0.0),
    "Mixout(0.7)": Mixout(0.7),
    "Mixout.official(0.7)": Mixout.official(0.7),
    "PretrainedWeightDecay(0.01)": PretrainedWeightDecay(0.01),
    "L2SP(0.1)": L2SP(0.1),
}


class Host:
    """One model in training with one method."""

    def __init__(self, method: FineTuningMethod, batch: dict[str, torch.Tensor]) -> None:
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2
        )
        self.model = BertForSequenceClassification(config).train()
        context = TrainingContext([], list, len(batch["labels"]), 2e-5, 0.01, 1000)
        self.method, self.batch = method, batch
        method.setup(self.model, context)
        self.optimizer = method.create_optimizer(self.model, context)

    def step(self) -> float:
        """Make one update and return its seconds."""
        start = time.perf_counter()
        outputs = self.model(**self.batch)
        (outputs.loss + self.method.extra_loss(self.model, self.batch, outputs)).backward()
        self.method.after_backward(self.model)
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.method.after_step(self.model, self.optimizer)
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    shape = (arguments.batch_size, arguments.length)
    batch = {
        "input_ids": torch.randint(30522, shape),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "labels": torch.randint(2, shape[:1]),
    }
    vanilla = Host(Vanilla(), batch)
    table = Table("method", "median ratio to vanilla", "range")
    for name, method in METHODS.items():
        host = Host(method, batch)
        pairs = [(vanilla.step(), host.step()) for _ in range(arguments.pairs + 2)][2:]
        ratios = [ours / theirs for theirs, ours in pairs]
        table.add_row(name, f"{statistics.median(ratios):.3f}", f"{min(ratios):.2f} to {max(ratios):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
