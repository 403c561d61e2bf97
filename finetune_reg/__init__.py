"""Regularizers for fine-tuning pretrained language models on little data.

Names are loaded when first used, so that `import finetune_reg` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("finetune_reg")

_HOME = {
    "FineTuningMethod": "finetune_reg.method",
    "TrainingContext": "finetune_reg.method",
    "train": "finetune_reg.training_loop",
    "predict": "finetune_reg.training_loop",
    "MethodTrainer": "finetune_reg.trainer",
    "METHODS": "finetune_reg.methods",
    "build_method": "finetune_reg.methods",
    "Vanilla": "finetune_reg.methods",
    "Mixout": "finetune_reg.methods",
    "L2SP": "finetune_reg.methods",
    "PretrainedWeightDecay": "finetune_reg.methods",
    "AttentionGuidedWeightMixup": "finetune_reg.methods",
    "GuidedDropout": "finetune_reg.methods",
    "UniformDropout": "finetune_reg.methods",
    "PermutedDropout": "finetune_reg.methods",
    "ReversedDropout": "finetune_reg.methods",
    "GaussianDropout": "finetune_reg.methods",
    "LayerwiseLearningRateDecay": "finetune_reg.methods",
    "TopLayerReinitialization": "finetune_reg.methods",
    "TopKLayers": "finetune_reg.methods",
    "NoisyTune": "finetune_reg.methods",
    "RecAdam": "finetune_reg.methods",
    "DPSDense": "finetune_reg.methods",
    "DPSMix": "finetune_reg.methods",
    "ChildTuningF": "finetune_reg.methods",
    "ChildTuningD": "finetune_reg.methods",
    "SMART": "finetune_reg.methods",
    "R3F": "finetune_reg.methods",
    "RDrop": "finetune_reg.methods",
    "FreeLB": "finetune_reg.methods",
    "Combination": "finetune_reg.methods",
    "load_task": "finetune_reg.tasks",
    "RunSettings": "finetune_reg.experiment.settings",
    "run": "finetune_reg.experiment.run",
    "InputError": "finetune_reg.errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'finetune_reg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
