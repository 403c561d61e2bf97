"""Adapters: the small sets of weights that peft trains beside a frozen model. It need not be installed.

adapted_models.py  which adapter a model has; refuse it
low_rank.py        the layers of LoRA: their deviation from the pretrained weight, and dropout by input unit
insertion.py       put adapters into a model in place, under plain names, and merge them
"""
