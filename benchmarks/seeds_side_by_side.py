"""How much faster K seeds of one setting fine-tune side by side on one device than one after the other.

    python benchmarks/seeds_side_by_side.py [--seeds 8] [--size base] [--batch-size 16] [--length 64] [--updates 20]
                                            [--rounds 3] [--device auto] [--precision float32]

Model: a BERT of the size of BERT-base (`base`), MiniLM (`small`) or a toy (`tiny`) with random weights, random tokens
in padded batches, and vanilla fine-tuning. Weights, tokens and dropout are of each seed. The ways:

* one after the other: `finetune_reg.training_loop.train`, seed by seed; the base of the ratios;
* stacked: each weight of all seeds in one tensor, one forward and backward pass for all (`torch.func.vmap`), one
  optimizer, gradients clipped seed by seed;
* threads: `train` in one thread per seed, on a GPU each in a CUDA stream of its own;
* processes: `train` in one process per seed, all on the device; imports and the first updates are not timed.

Each round runs all ways, beginning with another one each time. Columns, as median (range) over rounds:

* s per update: wall-clock seconds over the updates of all seeds;
* speed-up: the seconds of one after the other over those of this way, in the same round;
* peak: highest allocation of this process on the GPU, in GiB;
* loss: without dropout, the largest difference of a training loss to that of one after the other.

On a CPU every seed has one torch thread, so threads and processes gain from the cores, stacking does not.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier

import torch
from rich.console import Console
from rich.table import Table
from torch import multiprocessing
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

from finetune_reg.method import TrainingContext
from finetune_reg.methods import Vanilla
from finetune_reg.training_loop import Batch, train

SIZES = {
    "base": {},
    "small": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "tiny": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128},
}
MAX_GRAD_NORM, WARMUP = 1.0, 0.1
Losses = list[list[float]]  # by seed, then by update


@dataclass(frozen=True)
class Setting:
    """What all seeds share."""

    seeds: int
    size: str
    batch_size: int
    length: int
    updates: int
    device: str
    precision: str
    dropout: float = 0.1

    @property
    def context(self) -> TrainingContext:
        return TrainingContext([], dict, self.batch_size, learning_rate=2e-5, weight_decay=0.01, n_updates=self.updates)

    def prepare(self, seed: int) -> tuple[BertForSequenceClassification, list[Batch]]:
        """Make the model and the batches of one seed, on the device."""
        torch.manual_seed(seed)
        rates = {"hidden_dropout_prob": self.dropout, "attention_probs_dropout_prob": self.dropout}
        config = BertConfig(**SIZES[self.size], **rates)
        batches = []
        for _ in range(self.updates):
            lengths = torch.randint(self.length // 2, self.length + 1, (self.batch_size, 1))
            batch = {
                "input_ids": torch.randint(1000, config.vocab_size, (self.batch_size, self.length)),
                "attention_mask": (torch.arange(self.length) < lengths).long(),
                "labels": torch.randint(2, (self.batch_size,)),
            }
            batches.append({name: tensor.to(self.device) for name, tensor in batch.items()})
        return BertForSequenceClassification(config).to(self.device), batches

    def train(self, seed: int, model: BertForSequenceClassification, batches: list[Batch]) -> list[float]:
        """Fine-tune one seed with the package's loop."""
        context = replace(self.context, seed=seed)
        arguments = {"warmup_fraction": WARMUP, "max_grad_norm": MAX_GRAD_NORM, "precision": self.precision}
        return train(model, Vanilla(), batches, context, **arguments)

    def synchronize(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def timed(setting: Setting, work: Callable[[], Losses]) -> tuple[float, Losses]:
    setting.synchronize()
    start = time.perf_counter()
    losses = work()
    setting.synchronize()
    return time.perf_counter() - start, losses


def one_after_the_other(setting: Setting) -> tuple[float, Losses]:
    prepared = [setting.prepare(seed) for seed in range(setting.seeds)]
    return timed(setting, lambda: [setting.train(seed, *of_seed) for seed, of_seed in enumerate(prepared)])


def threads(setting: Setting) -> tuple[float, Losses]:
    prepared = [setting.prepare(seed) for seed in range(setting.seeds)]

    def work(seed: int) -> list[float]:
        torch.set_num_threads(1)
        with torch.cuda.stream(torch.cuda.Stream() if setting.device == "cuda" else None):
            return setting.train(seed, *prepared[seed])

    with ThreadPoolExecutor(setting.seeds) as pool:
        return timed(setting, lambda: list(pool.map(work, range(setting.seeds))))


def processes(setting: Setting) -> tuple[float, Losses]:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(setting.seeds + 1, timeout=120)
    with ProcessPoolExecutor(setting.seeds, context, _start_worker, (ready,)) as pool:
        runs = [pool.submit(_train_in_worker, setting, seed) for seed in range(setting.seeds)]
        ready.wait()
        return timed(setting, lambda: [run.result() for run in runs])


def _start_worker(ready: Barrier) -> None:
    _train_in_worker.ready = ready  # a barrier can only be inherited
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _train_in_worker(setting: Setting, seed: int) -> list[float]:
    first = replace(setting, updates=2)
    first.train(seed, *first.prepare(seed))
    prepared = setting.prepare(seed)
    setting.synchronize()
    _train_in_worker.ready.wait()
    return setting.train(seed, *prepared)


def stacked(setting: Setting) -> tuple[float, Losses]:
    models, batches = zip(*(setting.prepare(seed) for seed in range(setting.seeds)), strict=True)
    parameters, buffers = stack_module_state(list(models))
    skeleton = deepcopy(models[0]).to("meta").train()
    skeleton.set_attn_implementation("eager")  # under vmap and autocast the fused kernels have no gradient
    del models

    def loss(parameters: dict, buffers: dict, batch: Batch) -> torch.Tensor:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bfloat16"):
            return functional_call(skeleton, (parameters, buffers), kwargs=batch).loss

    def work() -> Losses:
        torch.manual_seed(0)
        context = setting.context
        decayed, others = [], []
        for tensor in parameters.values():
            (decayed if tensor.ndim > 2 else others).append(tensor)
        groups = [
            {"params": decayed, "weight_decay": context.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, **context.adamw_arguments)
        scheduler = get_linear_schedule_with_warmup(optimizer, math.ceil(WARMUP * setting.updates), setting.updates)
        gradients_and_losses = vmap(grad_and_value(loss), randomness="different")
        losses = []
        for of_seeds in zip(*batches, strict=True):
            batch = {name: torch.stack([part[name] for part in of_seeds]) for name in of_seeds[0]}
            padding = batch["attention_mask"][:, :, None, None, :] == 0
            batch["attention_mask"] = torch.finfo(torch.float32).min * padding  # 4 dimensions: used as it is
            with torch.no_grad():
                gradients, values = gradients_and_losses(parameters, buffers, batch)
            losses.append(values.tolist())
            norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients.values()]).norm(dim=0)
            factors = (MAX_GRAD_NORM / (norms + 1e-6)).clamp(max=1.0)
            for name, tensor in parameters.items():
                tensor.grad = gradients[name].mul_(factors.view(-1, *[1] * (tensor.ndim - 1)))
            optimizer.step()
            scheduler.step()
        return [list(of_seed) for of_seed in zip(*losses, strict=True)]

    return timed(setting, work)


WAYS = (one_after_the_other, stacked, threads, processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    chosen = vars(arguments)
    rounds = chosen.pop("rounds")
    if chosen["device"] == "auto":
        chosen["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    setting = Setting(**chosen)

    exact = {way: way(replace(setting, dropout=0.0, updates=4))[1] for way in WAYS}
    seconds: dict[Callable, list[float]] = {way: [] for way in WAYS}
    peaks = dict.fromkeys(WAYS, 0.0)
    for number in range(rounds):
        for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
            if setting.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds[way].append(way(setting)[0])
            if setting.device == "cuda":
                peaks[way] = torch.cuda.max_memory_allocated() / 2**30

    table = Table("way", "s per update", "speed-up", "peak", "loss", title=str(setting))
    for way in WAYS:
        per_update = [value / (setting.seeds * setting.updates) for value in seconds[way]]
        ratios = [base / value for base, value in zip(seconds[one_after_the_other], seconds[way], strict=True)]
        apart = (torch.tensor(exact[way]) - torch.tensor(exact[one_after_the_other])).abs().max()
        name = way.__name__.replace("_", " ")
        table.add_row(name, _spread(per_update, 4), _spread(ratios, 2), f"{peaks[way]:.1f}", f"{apart:.1e}")
    Console(width=130).print(table)


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
