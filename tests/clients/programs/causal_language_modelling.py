"""Next tokens with the Trainer, whose loss is divided by the tokens of the update."""

from heads import with_head
from transformers import TrainingArguments

from finetune_reg import MethodTrainer  # changed
from programs.shared import OPTIONS, padded, sequences


def main(method, folder):
    model = with_head("next tokens", dropout=True)
    trainer = MethodTrainer(  # changed
        model=model,
        args=TrainingArguments(folder, **OPTIONS),
        train_dataset=[{"input_ids": ids, "labels": ids.clone()} for ids in sequences()],
        data_collator=padded,
        method=method,  # changed
    )
    trainer.train()
    return model
