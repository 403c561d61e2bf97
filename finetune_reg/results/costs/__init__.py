"""What a score costs: passes of the model, labelled rows, and what pretraining had taught.

equal_passes.py   each method beside vanilla of as many passes, its learning rate chosen and the search counted
forgetting.py     masked-token loss after fine-tuning, beside distance and score
figures.py        scores against passes and against training rows, and what is forgotten
"""
