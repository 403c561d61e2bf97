"""What fine-tuning makes the pocket encoder forget: its masked-token loss on text that pretraining did not see."""

from copy import deepcopy
from functools import cache

from torch import nn
from transformers import BertForMaskedLM

from finetune_reg.paths import POCKET
from finetune_reg.pocket.pretraining import evaluate_masked_prediction

DOCUMENTS = 250  # the first of those held out: a quarter of a second, about 800 hidden words


def masked_token_loss(backbone: nn.Module) -> float:
    """Return the mean cross-entropy, in nats, of hidden words of held-out documents, read by the head of pretraining.

    The head, and the word embeddings that it scores with, are those of the shipped checkpoint, whatever became of the
    backbone: a backbone of which less is lost serves them better.

    Args:
        backbone: a plain BERT of the shape of the pocket encoder, on any device; it is not changed.
    """
    model = deepcopy(_pretrained())
    decoder = model.get_output_embeddings()
    decoder.weight = nn.Parameter(decoder.weight.detach().clone())  # else the word embeddings of the backbone
    weights = backbone.state_dict()
    model.bert.load_state_dict({name: weights[name] for name in model.bert.state_dict()})
    return evaluate_masked_prediction(model, DOCUMENTS)["masked_token_loss"]


@cache
def pretrained_masked_token_loss() -> float:
    """Return the same of the shipped encoder, before any fine-tuning."""
    return masked_token_loss(_pretrained().bert)


@cache
def _pretrained() -> BertForMaskedLM:
    return BertForMaskedLM.from_pretrained(POCKET)
