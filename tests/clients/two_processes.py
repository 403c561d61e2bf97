"""A program for two processes: `torchrun --nproc_per_node 2 two_processes.py FILE METHOD...`.

It trains with each method and writes the weights that both processes end with. Batches of unlike lengths make the
processes draw unlike numbers of dropout masks, and each process draws a head of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does

import torch
from heads import next_tokens, with_head
from method_settings import METHOD_SETTINGS
from tiny_encoders import tiny_dataset, tiny_encoder, without_dropout
from torch import distributed
from torch.nn.utils.rnn import pad_sequence
from training_hosts import BATCH_SIZE, method_trainer, weights

from finetune_reg.methods import Vanilla

Weights = dict[str, torch.Tensor]
LAUNCHERS = {
    "torch.distributed.run": ["--standalone", "--nproc_per_node", "2"],
    # Its name for several processes is one for GPUs: without any, they train on the CPU.
    "accelerate.commands.launch": [
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
    ],
}
ACCUMULATION_STEPS = 2
NEXT_TOKENS = "next tokens"
"""L2-SP under a loss that is divided by the number of tokens in an update of all processes."""


def examples() -> list[dict[str, torch.Tensor]]:
    """Of 3 to 7 tokens, two after each other being alike: a micro-batch of a process."""
    return [
        {name: tensor[: 3 + i // 2 % 5] if tensor.ndim else tensor for name, tensor in example.items()}
        for i, example in enumerate(tiny_dataset())
    ]


def pad(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pad the examples of a batch to the longest."""
    columns = {name: [example[name] for example in batch] for name in batch[0]}
    return {name: pad_sequence(c, batch_first=True) if c[0].ndim else torch.stack(c) for name, c in columns.items()}


def train(name: str, n_processes: int) -> Weights:
    """Return the weights of a tiny encoder after three updates with a method.

    In float64 and without dropout, unless the method draws something.
    """
    predicts_tokens = name == NEXT_TOKENS
    setting = METHOD_SETTINGS["l2_sp" if predicts_tokens else name]
    exact = {**without_dropout("bert"), "dtype": torch.float64} if setting.deterministic else {}
    model = with_head("next tokens", dtype=torch.float64) if predicts_tokens else tiny_encoder("bert", **exact)
    list(model.parameters())[-1].data.add_(int(os.environ.get("RANK", "0")))
    with TemporaryDirectory() as folder:
        method_trainer(
            model,
            Vanilla() if name == "vanilla" else setting.active(),
            examples(),
            folder,
            collator=(lambda batch: next_tokens(pad(batch))) if predicts_tokens else pad,
            per_device_train_batch_size=BATCH_SIZE // n_processes // ACCUMULATION_STEPS,
            gradient_accumulation_steps=ACCUMULATION_STEPS,
            num_train_epochs=1,
            ddp_backend="gloo" if n_processes > 1 else None,
        ).train()
    return weights(model)


def launched(launcher: str, names: Iterable[str], folder: Path) -> dict[str, list[Weights]]:
    """Train with methods in two processes that a launcher starts; return the weights of both, by method."""
    file = folder / "weights.pt"
    command = [sys.executable, "-m", launcher, *LAUNCHERS[launcher], __file__, str(file), *names]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr[-5000:]
    return torch.load(file)


if __name__ == "__main__":
    file, *names = sys.argv[1:]
    found: dict[str, list[Weights]] = {}
    for name in names:
        own = train(name, n_processes=2)
        found[name] = [{}, {}]
        distributed.all_gather_object(found[name], own)
    if distributed.get_rank() == 0:
        torch.save(found, file)
