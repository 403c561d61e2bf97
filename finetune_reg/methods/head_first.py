r"""Head first (LP-FT): fit the head on the pretrained features, then fine-tune all weights.

**Idea.** A head that begins at random makes errors of its own, and the backbone moves to mend them before the head has
learned anything: the pretrained features are distorted. A head that fits them from the start leaves less to mend.

**Equation.** Let `h_i` be what the output layer reads of training row `i`, from the pretrained model without dropout.
The output layer begins at the minimum of

    classification:  sum_i -log softmax(W h_i + b)[y_i] + lambda / 2 |W|^2,
    regression:      sum_i (w h_i + b - y_i)^2 / 2 + lambda / 2 |w|^2,

with `lambda` the `penalty`. Of two labels only the difference of the rows counts: it is penalized, as in scikit-learn,
and the rows are its halves. The problem is convex, and scikit-learn solves it. Fine-tuning follows, of all weights.

**Where it acts.** `setup` makes one pass over the training rows and writes the output layer. Layers of the head below
it, as RoBERTa and ELECTRA have, stay as drawn: the features go through them. Weights of the classes and other losses
of the host count in fine-tuning only. In a combination the head is fitted after the initial weights have been changed.

**Under adapters.** Fits the copy of the head that peft trains, with any adapter, on the features that the adapter
begins with: of a fresh LoRA the pretrained ones.

**Differences from the released code.** The paper's (`log_reg_sk.py` of AnanyaKumar/transfer_learning) divides the
features by their spread and takes the best of up to 100 penalties on held-out rows. For language models (tom4649/
lp-ft_ntk) scikit-learn's `LogisticRegressionCV` chooses among ten by five folds, and a regression has no penalty. Here
the penalty is given, 1 as in scikit-learn; choose it as any hyperparameter, on folds of the training rows.

**Reference.** Kumar, Raghunathan, Jones, Ma, Liang. Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution. ICLR 2022, arXiv:2202.10054; for language models Tomihari, Sato. Understanding Linear Probing then
Fine-tuning Language Models from NTK Perspective. NeurIPS 2024, arXiv:2405.16747.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.module_surgery import backbone_module_names, in_mode
from finetune_reg.building_blocks.pretrained_model import device_of, name_of, named_outputs, unwrapped
from finetune_reg.building_blocks.random_replay import extra_pass
from finetune_reg.building_blocks.task_outputs import task_outputs
from finetune_reg.errors import InputError, TrainingDivergedError
from finetune_reg.hyperparameters.ranges import Positive
from finetune_reg.method import FineTuningMethod, TrainingContext


def fit_output_layer(
    features: torch.Tensor, labels: torch.Tensor, n_outputs: int, penalty: float, has_bias: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight, shape (outputs, width), and the bias, shape (outputs,), of the minimum, in float64.

    Args:
        features: shape (rows, width).
        labels: shape (rows,), classes, or numbers if there is one output.
        n_outputs: labels, or 1 for a regression.
        penalty: `lambda`, above 0.
        has_bias: False keeps it at 0.

    Raises:
        InputError: a label that no row has.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    if n_outputs == 1:
        solver: Any = Ridge(alpha=penalty, fit_intercept=has_bias)
    else:
        if missing := sorted(set(range(n_outputs)) - set(labels.tolist())):
            raise InputError(
                f"HeadFirst needs training rows of all {n_outputs} labels, and label {missing[0]} has none."
            )
        solver = LogisticRegression(C=1 / penalty, fit_intercept=has_bias, tol=1e-8, max_iter=10_000)
    solver.fit(features.double().cpu().numpy(), labels.cpu().numpy())
    weight = torch.as_tensor(solver.coef_, dtype=torch.float64).reshape(-1, features.shape[1])
    bias = torch.as_tensor(solver.intercept_, dtype=torch.float64).expand(len(weight))
    if n_outputs == 2:
        weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
    return weight, bias


@dataclass
class HeadFirst(FineTuningMethod):
    """Fit the output layer on the pretrained features before fine-tuning begins.

    Args:
        penalty: `lambda`, above 0, on the weight of the output layer; None leaves the head as it is.

    Raises:
        InputError: a penalty outside its range; at `setup`, a model without a backbone, or whose logits are not what a
            linear layer of its head returns, several labels for a row, or a label that no row has.
        TrainingDivergedError: at `setup`, a feature is not finite.
    """

    setup_stage: ClassVar[Literal["head"]] = "head"

    penalty: Positive | None = 1.0

    @torch.no_grad()
    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Read the features of all training rows, and write the output layer."""
        if self.penalty is None or context.resumes:
            return
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        with in_mode(model, training=False), extra_pass():
            candidates = _trained_layers_of_head(model)
            for batch in context.batches(device_of(model)):
                layer, features = _read_features(model, batch, candidates)
                found.append(_labelled(features, batch["labels"], layer))
        features, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        if (wrong := features[~features.isfinite()]).numel():
            raise TrainingDivergedError(0, wrong[0].item(), "A feature")
        weight, bias = fit_output_layer(features, labels, layer.out_features, self.penalty, layer.bias is not None)
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(bias)


def _trained_layers_of_head(model: nn.Module) -> list[nn.Linear]:
    inside = backbone_module_names(model)
    return [
        module
        for name, module in unwrapped(model).named_modules()
        if name not in inside and isinstance(module, nn.Linear) and module.weight.requires_grad
    ]


def _read_features(
    model: nn.Module, batch: dict[str, torch.Tensor], candidates: list[nn.Linear]
) -> tuple[nn.Linear, torch.Tensor]:
    """Return which of the candidates is the output layer, and what it reads of each decision, shape (..., width)."""
    passes: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda layer, inputs, output: passes.append((layer, inputs[0], output)))
        for module in candidates
    ]
    try:
        logits = getattr(named_outputs(task_outputs(model, batch)), "logits", None)
    finally:
        for hook in hooks:
            hook.remove()
    if passes and logits is not None:
        layer, features, outputs = passes[-1]
        if outputs.shape == logits.shape:
            return layer, features
        if outputs.shape[:1] + outputs.shape[2:] == logits.shape:  # a causal classifier answers at one token of a row
            places = (outputs == logits[:, None]).all(-1).int().argmax(1)
            return layer, features[torch.arange(len(features)), places]
    raise InputError(
        f"HeadFirst found no trainable linear layer whose outputs are the logits of {name_of(model)}: use a model "
        "for the classification, or the rating, of texts or tokens."
    )


def _labelled(features: torch.Tensor, labels: torch.Tensor, layer: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features and the labels of the decisions that have one."""
    features = features.flatten(0, -2)
    if labels.numel() != len(features) or (layer.out_features > 1 and labels.is_floating_point()):
        raise InputError("HeadFirst fits one label to each decision: use single-label data or a regression.")
    labels = labels.flatten()
    has_label = labels != -100 if layer.out_features > 1 else torch.ones_like(labels, dtype=torch.bool)
    return features[has_label], labels[has_label]
