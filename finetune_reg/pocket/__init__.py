"""Pocket, the embedded world: a toy language small enough to pretrain an encoder on and to fine-tune it offline.

`lexicon` holds the words, `grammar` sentences, `meaning` the relations between them, `corpus` the documents the encoder
is pretrained on (`masking`, `pretraining`), `tasks` the four fine-tuning tasks.
"""
