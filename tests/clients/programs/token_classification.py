"""Named entities with the Trainer; tokens after the first of a word have no label."""

from heads import N_TOKEN_LABELS, with_head
from transformers import TrainingArguments

from finetune_reg import MethodTrainer  # changed
from programs.shared import OPTIONS, padded, sequences


def labelled(ids):
    labels = ids % N_TOKEN_LABELS
    labels[::3] = -100
    return {"input_ids": ids, "labels": labels}


def main(method, folder):
    model = with_head("tokens", dropout=True)
    trainer = MethodTrainer(  # changed
        model=model,
        args=TrainingArguments(folder, **OPTIONS),
        train_dataset=[labelled(ids) for ids in sequences()],
        data_collator=padded,
        method=method,  # changed
    )
    trainer.train()
    trainer.save_model(folder)
    return model
