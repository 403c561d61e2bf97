"""Pocket, the embedded world: a toy language small enough to pretrain an encoder on and to fine-tune it offline.

lexicon.py, inflection.py  words and their forms
grammar.py                 sentences
meaning.py                 edits of a sentence whose effect on its meaning is known
similarity.py              how alike two sentences are
corruption.py              sentences that are not acceptable
corpus.py                  the documents that the encoder is pretrained on
tokenizer.py, encoder.py   word pieces, and a small BERT
masking.py, pretraining.py masked-token prediction
fisher_scores.py           of its sub-layers, for guided dropout
forgetting.py              what fine-tuning leaves of masked-token prediction
tasks.py                   the four fine-tuning tasks
"""
