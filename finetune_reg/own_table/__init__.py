"""A user's own table: from a file of labelled rows to a model, and to which method of training to use.

reading.py     a file or folder -> a data frame
selection.py   columns -> texts, labels, groups; what cannot be compared on is refused
duplicates.py  texts that repeat, and what must stay on one side of a split
inspection.py  what is in the table, in ten lines, with warnings
candidates.py  the methods that are compared, and their settings
splitting.py   repeated folds, written as a task of the user's own
planning.py    what is run within the budget, and what it can show
runs.py        the runs of a plan, through the sweep engine or here
answer.py      intervals, recommendation, calibration, suspect rows
comparison.py  the whole way: `compare`
page.py        the answer as one page
model.py       the model trained on all rows, its card, predictions
commands.py    `finetune-reg compare` and `finetune-reg predict`
"""
