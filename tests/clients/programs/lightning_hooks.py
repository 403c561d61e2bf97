"""A module whose hooks a loop calls in the order of Lightning: the six calls have a hook each."""

import torch
from tiny_encoders import tiny_encoder
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from finetune_reg import TrainingContext
from programs.shared import padded, sequences


class Classifier(torch.nn.Module):
    def __init__(self, method, context):
        super().__init__()
        self.model = tiny_encoder("bert")
        self.method, self.context = method, context

    def forward(self, **batch):
        return self.model(**batch)

    def configure_optimizers(self):
        self.method.setup(self, self.context)
        return self.method.create_optimizer(self, self.context)

    def training_step(self, batch):
        return self.method.training_loss(self, batch, self(**batch))

    def on_before_optimizer_step(self, optimizer):
        self.method.after_backward(self)

    def optimizer_step(self, optimizer):
        optimizer.step()
        self.method.after_step(self, optimizer)

    def on_fit_end(self):
        self.method.finalize(self)


def fit(module, loader):
    optimizer = module.configure_optimizers()
    module.train()
    for batch in loader:
        optimizer.zero_grad()
        module.training_step(batch).backward()
        module.on_before_optimizer_step(optimizer)
        clip_grad_norm_(module.parameters(), 1.0)
        module.optimizer_step(optimizer)
    module.on_fit_end()


def main(method, folder):
    examples = [{"input_ids": ids, "labels": int(ids[1] > 25)} for ids in sequences()]
    loader = DataLoader(examples, 4, collate_fn=padded)
    context = TrainingContext(examples, padded, 4, learning_rate=1e-3, weight_decay=0.01, n_updates=len(loader))
    module = Classifier(method, context)
    fit(module, loader)
    return module
