"""What methods are made of: selecting and changing parts of a model, replaying its passes, measuring it.

pretrained_model.py        device, configuration and word embeddings of a model
parameter_groups.py        backbone, head and blocks of a model; groups for weight decay
parameter_selection.py     which weights to keep, by score
module_surgery.py          replace layers, set dropout rates or weights, and undo it
dropout_sites.py           where a model drops out
random_replay.py           further passes with the masks of the first
task_outputs.py            further passes with the task's loss, whoever computes it
embedding_perturbation.py  move the word embeddings
output_divergence.py       how far two outputs differ
fisher_information.py      of each parameter
sub_layer_fisher.py        of each sub-layer
precomputed_gradient.py    losses that were differentiated before the loop does it
hypergradient.py           the gradient through a training step
bias_correction.py         AdamW without it
adapters/                  LoRA and its like
"""
