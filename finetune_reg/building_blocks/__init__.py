"""What methods are made of: selecting and changing parts of a model, replaying its passes, measuring it.

parameter_groups.py       backbone, head, blocks; decay groups     parameter_selection.py   which weights to keep
module_surgery.py         replace layers, set dropout, undo        dropout_sites.py         where a model drops out
random_replay.py          further passes with the same masks       bias_correction.py       AdamW without it
embedding_perturbation.py move the word embeddings                 output_divergence.py     how far outputs differ
fisher_information.py     of each parameter                        sub_layer_fisher.py      of each sub-layer
hypergradient.py          gradient through a training step
"""
