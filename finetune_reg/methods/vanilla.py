"""Vanilla fine-tuning: AdamW on the task loss, every call of the contract left alone.

**Idea.** The baseline of all five papers. With `dropout=0.0` it is also the control that any method which switches
dropout off has to beat: otherwise the gain may be the missing dropout.

**Equation.** `w <- AdamW(w, grad L(w))`.

**Where it acts.** Nowhere; with `dropout` given, `setup` sets the rates and `finalize` restores them.

**Under adapters.** Trains what peft trains, with any adapter; `dropout` sets the rates of the adapter, too. AdamW
decays `A` and `B` of LoRA, and so their product toward 0, which is the pretrained weight, at twice the rate.

**Differences from the released code.** BERT's first released optimizer left out Adam's bias correction, which makes
the first steps up to 6.6 times larger. All current libraries have it; here a run can leave it out
(`bias_correction=False`).

**Reference.** Devlin, Chang, Lee, Toutanova. BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding. NAACL 2019, arXiv:1810.04805.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

from torch import nn

from finetune_reg.building_blocks.module_surgery import set_dropout
from finetune_reg.hyperparameters.ranges import DropoutRate
from finetune_reg.method import FineTuningMethod, TrainingContext


@dataclass
class Vanilla(FineTuningMethod):
    """Fine-tune without a regularizer beyond dropout and weight decay.

    Args:
        dropout: rate for every dropout of the model, in [0, 1); None keeps the rates of the checkpoint.

    Raises:
        InputError: a rate outside [0, 1).
    """

    dropout: DropoutRate | None = None
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @property
    def sets_dropout(self) -> bool:
        """True when a rate is given."""
        return self.dropout is not None

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Set the dropout rates, if one is given."""
        if self.dropout is not None:
            set_dropout(model, self.dropout, self._undo)

    def finalize(self, model: nn.Module) -> None:
        """Put the dropout rates back."""
        self._undo.close()
