"""Summaries with the Seq2SeqTrainer, after which MethodTrainer comes first."""

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5ForConditionalGeneration
from unusual_models import t5

from finetune_reg import MethodTrainer  # changed
from programs.shared import OPTIONS, padded, sequences


class RegularizedTrainer(MethodTrainer, Seq2SeqTrainer):  # changed
    """Both."""


def main(method, folder):
    model = T5ForConditionalGeneration(t5()[0].config)
    examples = [{"input_ids": ids, "labels": ids[:4].flip(0)} for ids in sequences()]
    trainer = RegularizedTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(folder, predict_with_generate=True, generation_max_length=5, **OPTIONS),
        train_dataset=examples,
        eval_dataset=examples[:4],
        data_collator=summaries,
        method=method,  # changed
    )
    trainer.train()
    assert trainer.predict(examples[:4]).predictions.shape[0] == 4
    return model


def summaries(examples):
    labels = padded([{"input_ids": example["labels"], "labels": example["labels"]} for example in examples])["labels"]
    return padded([{"input_ids": example["input_ids"]} for example in examples]) | {"labels": labels}
