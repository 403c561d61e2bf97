"""Fisher scores of the pocket encoder's sub-layers: shipped, and how they were measured.

    python -m finetune_reg.pocket.fisher_scores

measures them anew and writes `fisher_scores.json` beside the weights. Needed after pretraining anew.
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM

from finetune_reg.building_blocks.sub_layer_fisher import pretraining_fisher_scores
from finetune_reg.errors import InputError
from finetune_reg.paths import POCKET
from finetune_reg.pocket.corpus import generate_documents
from finetune_reg.pocket.masking import mask_batch, masking_rates, tokenize_corpus
from finetune_reg.pocket.pretraining import sha256_of

FILE_NAME = "fisher_scores.json"


def pocket_fisher_scores() -> dict[str, float]:
    """Return the shipped scores: `GuidedDropout(scores=pocket_fisher_scores())` fits the pocket encoder.

    Raises:
        InputError: there are no scores, or they belong to other weights.
    """
    path = POCKET / FILE_NAME
    record = json.loads(path.read_text()) if path.is_file() else {}
    if record.get("model_sha256") != sha256_of(POCKET / "model.safetensors"):
        raise InputError(
            f"{FILE_NAME} does not belong to the weights beside it: run `python -m finetune_reg.pocket.fisher_scores`."
        )
    return record["scores"]


def measure_pocket_fisher_scores(folder: Path = POCKET, *, documents: int = 4_000, seed: int = 0) -> dict:
    """Measure the scores with the pretraining loss and return what `fisher_scores.json` holds.

    The defaults take the first 1 % of the documents of pretraining, masked anew by its rules. Takes seconds.
    """
    model = AutoModelForMaskedLM.from_pretrained(folder)
    corpus = tokenize_corpus(generate_documents(documents, seed))
    generator, rates = torch.Generator().manual_seed(seed), masking_rates()

    def masked_documents():
        for row in range(documents):
            batch = mask_batch(corpus, torch.tensor([row]), rates, generator)
            yield {
                "input_ids": batch.input_ids,
                "attention_mask": batch.attention_mask,
                "token_type_ids": batch.token_type_ids,
                "labels": batch.labels.where(batch.asked, -100),
            }

    return {
        "documents": documents,
        "seed": seed,
        "model_sha256": sha256_of(folder / "model.safetensors"),
        "scores": pretraining_fisher_scores(model, masked_documents()),
    }


if __name__ == "__main__":
    (POCKET / FILE_NAME).write_text(json.dumps(measure_pocket_fisher_scores(), indent=2) + "\n")
