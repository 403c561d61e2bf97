"""The public names and where they live: `__init__.py` loads from here, type checkers read it."""

from finetune_reg.building_blocks.pretrained_model import name_backbone as name_backbone
from finetune_reg.errors import InputError as InputError
from finetune_reg.experiment.run import run as run
from finetune_reg.experiment.settings import RunSettings as RunSettings
from finetune_reg.method import FineTuningMethod as FineTuningMethod
from finetune_reg.method import TrainingContext as TrainingContext
from finetune_reg.methods import L2SP as L2SP
from finetune_reg.methods import METHODS as METHODS
from finetune_reg.methods import R3F as R3F
from finetune_reg.methods import SMART as SMART
from finetune_reg.methods import AttentionGuidedWeightMixup as AttentionGuidedWeightMixup
from finetune_reg.methods import ChildTuningD as ChildTuningD
from finetune_reg.methods import ChildTuningF as ChildTuningF
from finetune_reg.methods import Combination as Combination
from finetune_reg.methods import DPSDense as DPSDense
from finetune_reg.methods import DPSMix as DPSMix
from finetune_reg.methods import FreeLB as FreeLB
from finetune_reg.methods import GaussianDropout as GaussianDropout
from finetune_reg.methods import GuidedDropout as GuidedDropout
from finetune_reg.methods import HeadFirst as HeadFirst
from finetune_reg.methods import LayerwiseLearningRateDecay as LayerwiseLearningRateDecay
from finetune_reg.methods import Mixout as Mixout
from finetune_reg.methods import NoisyTune as NoisyTune
from finetune_reg.methods import PermutedDropout as PermutedDropout
from finetune_reg.methods import PretrainedInterpolation as PretrainedInterpolation
from finetune_reg.methods import PretrainedWeightDecay as PretrainedWeightDecay
from finetune_reg.methods import RDrop as RDrop
from finetune_reg.methods import RecAdam as RecAdam
from finetune_reg.methods import ReversedDropout as ReversedDropout
from finetune_reg.methods import TopKLayers as TopKLayers
from finetune_reg.methods import TopLayerReinitialization as TopLayerReinitialization
from finetune_reg.methods import UniformDropout as UniformDropout
from finetune_reg.methods import Vanilla as Vanilla
from finetune_reg.methods import WeightAveraging as WeightAveraging
from finetune_reg.methods import build_method as build_method
from finetune_reg.own_table.comparison import compare as compare
from finetune_reg.tasks import load_task as load_task
from finetune_reg.trainer import MethodTrainer as MethodTrainer
from finetune_reg.training_loop import predict as predict
from finetune_reg.training_loop import train as train

__version__: str
