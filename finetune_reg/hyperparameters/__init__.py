"""Hyperparameters: their ranges, the checks of what comes from outside, and the card that shows them.

ranges.py            intervals declared in types, checked when a method is built
typed_parameters.py  names and types of what notebooks, YAML files and the command line pass
nested_values.py     shapes of values that hold others, checked quickly
paper_card.py        a method at a glance: paper, hyperparameters, cost, where it acts
"""
