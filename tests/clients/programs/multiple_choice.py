"""Multiple choice with the Trainer: each example brings one sequence per choice."""

import torch
from heads import with_head
from transformers import TrainingArguments

from finetune_reg import MethodTrainer  # changed
from programs.shared import OPTIONS, padded, sequences

N_CHOICES = 3


def collate(examples):
    flat = padded([{"input_ids": choice} for example in examples for choice in example["choices"]])
    batch = {name: tensor.view(len(examples), N_CHOICES, -1) for name, tensor in flat.items()}
    return batch | {"labels": torch.tensor([example["label"] for example in examples])}


def main(method, folder):
    model = with_head("multiple choice", dropout=True)
    endings = sequences(48)
    questions = [{"choices": endings[i : i + N_CHOICES], "label": i % N_CHOICES} for i in range(0, 48, N_CHOICES)]
    trainer = MethodTrainer(  # changed
        model=model,
        args=TrainingArguments(folder, remove_unused_columns=False, **OPTIONS),
        train_dataset=questions,
        data_collator=collate,
        method=method,  # changed
    )
    trainer.train()
    return model
