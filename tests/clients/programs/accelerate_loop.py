"""Text classification without the Trainer, in a loop of Accelerate that accumulates."""

from accelerate import Accelerator
from tiny_encoders import tiny_encoder
from torch.utils.data import DataLoader

from finetune_reg import TrainingContext
from programs.shared import padded, sequences


def main(method, folder):
    examples = [{"input_ids": ids, "labels": int(ids[1] > 25)} for ids in sequences()]
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, loader = accelerator.prepare(tiny_encoder("bert"), DataLoader(examples, 4, collate_fn=padded))
    context = TrainingContext(examples, padded, 8, learning_rate=1e-3, weight_decay=0.01, n_updates=len(loader))
    method.setup(model, context)
    optimizer = accelerator.prepare(method.create_optimizer(model, context))
    model.train()
    for _ in range(2):
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(method.training_loss(model, batch, model(**batch)))
                if accelerator.sync_gradients:
                    method.after_backward(model)
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                if accelerator.sync_gradients:
                    method.after_step(model, optimizer)
                optimizer.zero_grad()
    method.finalize(model)
    accelerator.unwrap_model(model).save_pretrained(folder)
    return accelerator.unwrap_model(model)
