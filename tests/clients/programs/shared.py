"""What the programs load: random token sequences of unequal lengths, and the options of a short run."""

import torch
from tiny_encoders import VOCABULARY
from torch.nn import functional as F

OPTIONS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def sequences(n=16, shortest=4, longest=9):
    """Token ids of random lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (n,), generator=generator).tolist()
    return [torch.randint(5, VOCABULARY, (length,), generator=generator) for length in lengths]


def padded(examples):
    """Batch examples of unequal lengths: ids and masks are filled with 0, labels of tokens with -100."""
    length = max(len(example["input_ids"]) for example in examples)

    def stacked(name):
        values = [torch.as_tensor(example[name]) for example in examples]
        if values[0].ndim == 0:
            return torch.stack(values)
        fill = -100 if name == "labels" else 0
        return torch.stack([F.pad(value, (0, length - len(value)), value=fill) for value in values])

    batch = {name: stacked(name) for name in examples[0]}
    return batch | {"attention_mask": (batch["input_ids"] != 0).long()}
