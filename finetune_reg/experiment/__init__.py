"""An experiment: settings in, one run, a record out.

settings.py             everything that decides the outcome of a run, and its hash
run.py                  one run: fine-tune, evaluate, record
records.py              what a record holds; one JSON file each
kept_weights.py         what a run ended with, kept when asked for
soup.py                 the mean of such weights as one model
atomic_writing.py       files that are whole or not there
encoders.py             a pretrained model by its name
encoder_assembly.py     one that the package registry holds in parts
checkpoints.py          whether a checkpoint, its tokenizer and its head fit the model and the task
inputs.py               whether rows and weights are still those of a finished run
environment.py          versions, commit, device, memory
pass_counting.py        forward and backward passes, counted
notebook_parameters.py  the parameters of the template notebook, checked
"""
