"""All methods, by name."""

from __future__ import annotations

from typing import Any

from finetune_reg.errors import InputError, shortened, unknown_name
from finetune_reg.hyperparameters.typed_parameters import check_arguments
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods.attention_guided_weight_mixup import AttentionGuidedWeightMixup
from finetune_reg.methods.child_tuning_d import ChildTuningD
from finetune_reg.methods.child_tuning_f import ChildTuningF
from finetune_reg.methods.combination import Combination
from finetune_reg.methods.dps_dense import DPSDense
from finetune_reg.methods.dps_mix import DPSMix
from finetune_reg.methods.dropout_controls import PermutedDropout, ReversedDropout, UniformDropout
from finetune_reg.methods.freelb import FreeLB
from finetune_reg.methods.gaussian_dropout import GaussianDropout
from finetune_reg.methods.guided_dropout import GuidedDropout
from finetune_reg.methods.head_first import HeadFirst
from finetune_reg.methods.hype import HyPe
from finetune_reg.methods.l2_sp import L2SP
from finetune_reg.methods.layerwise_learning_rate_decay import LayerwiseLearningRateDecay
from finetune_reg.methods.low_rank_adaptation import LowRankAdaptation
from finetune_reg.methods.mixout import Mixout
from finetune_reg.methods.neftune import NEFTune
from finetune_reg.methods.noisy_tune import NoisyTune
from finetune_reg.methods.pretrained_interpolation import PretrainedInterpolation
from finetune_reg.methods.pretrained_weight_decay import PretrainedWeightDecay
from finetune_reg.methods.r3f import R3F
from finetune_reg.methods.r_drop import RDrop
from finetune_reg.methods.rec_adam import RecAdam
from finetune_reg.methods.sam import SAM
from finetune_reg.methods.selective_projection_decay import SelectiveProjectionDecay
from finetune_reg.methods.smart import SMART
from finetune_reg.methods.top_k_layers import TopKLayers
from finetune_reg.methods.top_layer_reinitialization import TopLayerReinitialization
from finetune_reg.methods.vanilla import Vanilla
from finetune_reg.methods.weight_averaging import WeightAveraging

METHODS: dict[str, type[FineTuningMethod]] = {
    "vanilla": Vanilla,
    "mixout": Mixout,
    "l2_sp": L2SP,
    "pretrained_weight_decay": PretrainedWeightDecay,
    "selective_projection_decay": SelectiveProjectionDecay,
    "attention_guided_weight_mixup": AttentionGuidedWeightMixup,
    "guided_dropout": GuidedDropout,
    "uniform_dropout": UniformDropout,
    "permuted_dropout": PermutedDropout,
    "reversed_dropout": ReversedDropout,
    "gaussian_dropout": GaussianDropout,
    "layerwise_learning_rate_decay": LayerwiseLearningRateDecay,
    "top_layer_reinitialization": TopLayerReinitialization,
    "top_k_layers": TopKLayers,
    "low_rank_adaptation": LowRankAdaptation,
    "noisy_tune": NoisyTune,
    "head_first": HeadFirst,
    "rec_adam": RecAdam,
    "dps_dense": DPSDense,
    "dps_mix": DPSMix,
    "child_tuning_f": ChildTuningF,
    "child_tuning_d": ChildTuningD,
    "smart": SMART,
    "r3f": R3F,
    "r_drop": RDrop,
    "freelb": FreeLB,
    "sam": SAM,
    "neftune": NEFTune,
    "hype": HyPe,
    "weight_averaging": WeightAveraging,
    "pretrained_interpolation": PretrainedInterpolation,
    "combination": Combination,
}


def build_method(name: str, /, **hyperparameters: Any) -> FineTuningMethod:
    """Build a method from its name and hyperparameters, as records and parameter files hold them.

    A combination takes `members`, a list of mappings with `method` and that method's hyperparameters.

    Raises:
        InputError: unknown method or hyperparameter, or a value of the wrong type or outside its range.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise unknown_name("method", name, METHODS)
    if name == "combination" and isinstance(hyperparameters.get("members"), list):
        hyperparameters = {**hyperparameters, "members": list(map(_build_member, hyperparameters["members"]))}
    return METHODS[name](**check_arguments(METHODS[name], hyperparameters, where=f"method {name!r}"))


def _build_member(member: Any) -> Any:
    if not isinstance(member, dict):
        return member
    if "method" not in member:
        raise InputError(f"Each of the members of a combination needs its method, not {shortened(member)}.")
    return build_method(member["method"], **{name: value for name, value in member.items() if name != "method"})


def method_name(method: FineTuningMethod) -> str:
    """Return the registry name of a method object."""
    return next(name for name, cls in METHODS.items() if cls is type(method))
