"""One row per method: how the contract tests build it, and the setting in which it is vanilla."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import (
    L2SP,
    R3F,
    SAM,
    SMART,
    AttentionGuidedWeightMixup,
    ChildTuningD,
    ChildTuningF,
    Combination,
    DPSDense,
    DPSMix,
    FreeLB,
    GaussianDropout,
    GuidedDropout,
    HeadFirst,
    HyPe,
    LayerwiseLearningRateDecay,
    LowRankAdaptation,
    Mixout,
    NEFTune,
    NoisyTune,
    PermutedDropout,
    PretrainedInterpolation,
    PretrainedWeightDecay,
    RDrop,
    RecAdam,
    ReversedDropout,
    SelectiveProjectionDecay,
    TopKLayers,
    TopLayerReinitialization,
    UniformDropout,
    Vanilla,
    WeightAveraging,
)


@dataclass(frozen=True)
class MethodSetting:
    active: Callable[[], FineTuningMethod]
    neutral: Callable[[], FineTuningMethod]
    deterministic: bool  # draws no randomness of its own and leaves dropout alone
    weight_decay: float = 0.01  # what vanilla is compared at: 0 for methods that replace weight decay


TWO_BLOCK_SCORES = {
    "embeddings": 7.0,
    "layer.0.attention_probabilities": 1.0,
    "layer.0.attention_output": 3.0,
    "layer.0.feed_forward_output": 5.0,
    "layer.1.attention_probabilities": 2.0,
    "layer.1.attention_output": 4.0,
    "layer.1.feed_forward_output": 6.0,
}

METHOD_SETTINGS = {
    "vanilla": MethodSetting(lambda: Vanilla(dropout=0.5), Vanilla, deterministic=True),
    "mixout": MethodSetting(lambda: Mixout(0.5), lambda: Mixout(0.0, disable_dropout=False), deterministic=False),
    "l2_sp": MethodSetting(lambda: L2SP(10.0, 1.0), lambda: L2SP(0.0, 0.0), deterministic=True, weight_decay=0.0),
    "pretrained_weight_decay": MethodSetting(
        lambda: PretrainedWeightDecay(5.0), lambda: PretrainedWeightDecay(0.0), deterministic=True, weight_decay=0.0
    ),
    "attention_guided_weight_mixup": MethodSetting(
        lambda: AttentionGuidedWeightMixup(n_searches=1, search_epochs=1.0, alpha_learning_rate=0.1),
        lambda: AttentionGuidedWeightMixup(n_searches=0),
        deterministic=True,  # what the search draws depends on the seed alone
    ),
    **{
        name: MethodSetting(
            lambda kind=kind: kind(0.5, 0.0, TWO_BLOCK_SCORES),
            lambda kind=kind: kind(0.1, 0.1, TWO_BLOCK_SCORES),
            deterministic=False,
        )
        for name, kind in {
            "guided_dropout": GuidedDropout,
            "uniform_dropout": UniformDropout,
            "permuted_dropout": PermutedDropout,
            "reversed_dropout": ReversedDropout,
        }.items()
    },
    "gaussian_dropout": MethodSetting(
        lambda: GaussianDropout(0.5), lambda: GaussianDropout(0.0, disable_dropout=False), deterministic=False
    ),
    "layerwise_learning_rate_decay": MethodSetting(
        lambda: LayerwiseLearningRateDecay(0.5), lambda: LayerwiseLearningRateDecay(1.0), deterministic=True
    ),
    "top_layer_reinitialization": MethodSetting(
        lambda: TopLayerReinitialization(1), lambda: TopLayerReinitialization(0, False), deterministic=True
    ),
    "top_k_layers": MethodSetting(lambda: TopKLayers(1), lambda: TopKLayers(None), deterministic=True),
    "low_rank_adaptation": MethodSetting(
        lambda: LowRankAdaptation(4, targets="all_linear"), lambda: LowRankAdaptation(None), deterministic=True
    ),
    "noisy_tune": MethodSetting(NoisyTune, lambda: NoisyTune(0.0), deterministic=True),
    "head_first": MethodSetting(HeadFirst, lambda: HeadFirst(None), deterministic=True),
    "rec_adam": MethodSetting(
        lambda: RecAdam(100.0, annealing_midpoint=0.5), lambda: RecAdam(annealing="constant"), deterministic=True
    ),
    "dps_dense": MethodSetting(
        lambda: DPSDense(0.5, update_ratio=0.34, disable_dropout=False),
        lambda: DPSDense(1.0, update_ratio=0.34, disable_dropout=False),
        deterministic=True,
    ),
    "dps_mix": MethodSetting(
        lambda: DPSMix(0.5, update_ratio=0.34),
        lambda: DPSMix(1.0, update_ratio=0.34, disable_dropout=False),
        deterministic=False,
    ),
    "child_tuning_f": MethodSetting(lambda: ChildTuningF(0.3), lambda: ChildTuningF(1.0), deterministic=False),
    "child_tuning_d": MethodSetting(lambda: ChildTuningD(0.3), lambda: ChildTuningD(1.0), deterministic=True),
    "smart": MethodSetting(
        lambda: SMART(5.0, 5.0, epsilon=0.1, noise_std=0.1, ascent_step_size=0.1),
        lambda: SMART(0.0, 0.0),
        deterministic=False,
    ),
    "r3f": MethodSetting(lambda: R3F(1.0, noise_scale=0.1), lambda: R3F(0.0), deterministic=False),
    "r_drop": MethodSetting(
        RDrop,
        lambda: RDrop(0.0, second_loss_weight=0.0),
        deterministic=True,  # beside dropout
    ),
    "freelb": MethodSetting(
        lambda: FreeLB(n_passes=3, step_size=0.3, max_norm=0.5, initial_magnitude=0.5),
        lambda: FreeLB(n_passes=1, initial_magnitude=0.0),
        deterministic=False,
    ),
    "sam": MethodSetting(
        lambda: SAM(0.5),
        lambda: SAM(0.0),
        deterministic=True,  # beside dropout
    ),
    "neftune": MethodSetting(lambda: NEFTune(5.0), lambda: NEFTune(0.0), deterministic=False),
    "hype": MethodSetting(lambda: HyPe(0.1), lambda: HyPe(0.0), deterministic=False),
    "selective_projection_decay": MethodSetting(
        SelectiveProjectionDecay, lambda: SelectiveProjectionDecay(0.0), deterministic=True, weight_decay=0.0
    ),
    "weight_averaging": MethodSetting(
        lambda: WeightAveraging(tail_fraction=0.5),
        lambda: WeightAveraging("exponential", decay=0.0),
        deterministic=True,
    ),
    "pretrained_interpolation": MethodSetting(
        lambda: PretrainedInterpolation(0.5), lambda: PretrainedInterpolation(1.0), deterministic=True
    ),
    "combination": MethodSetting(
        lambda: Combination([Mixout(0.5), L2SP(10.0)]),
        lambda: Combination([Mixout(0.0, disable_dropout=False), PretrainedWeightDecay(0.0)]),
        deterministic=False,
        weight_decay=0.0,
    ),
}
