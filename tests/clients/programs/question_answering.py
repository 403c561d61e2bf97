"""Answers as spans, with a Trainer of one's own that comes after MethodTrainer."""

from heads import with_head
from transformers import Trainer, TrainingArguments

from finetune_reg import MethodTrainer  # changed
from programs.shared import OPTIONS, padded, sequences


class QuestionAnsweringTrainer(Trainer):
    """Scores spans after its evaluation, as the public example does."""

    def evaluate(self, *args, **kwargs):
        metrics = super().evaluate(*args, **kwargs)
        return metrics | {"eval_spans": len(self.eval_dataset)}


class RegularizedTrainer(MethodTrainer, QuestionAnsweringTrainer):  # changed
    """Both."""


def main(method, folder):
    model = with_head("question answering", dropout=True)
    examples = [{"input_ids": ids, "start_positions": 1, "end_positions": len(ids) - 2} for ids in sequences()]
    trainer = RegularizedTrainer(
        model=model,
        args=TrainingArguments(folder, label_names=["start_positions", "end_positions"], **OPTIONS),
        train_dataset=examples,
        eval_dataset=examples[:4],
        data_collator=padded,
        method=method,  # changed
    )
    trainer.train()
    assert trainer.evaluate()["eval_spans"] == 4
    return model
