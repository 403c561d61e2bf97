"""A user's own table: from a file of labelled rows to a model, and to which method of training to use.

reading.py     a file or folder -> a data frame
selection.py   columns -> texts, labels, groups; what cannot be compared on is refused
duplicates.py  texts that repeat, and what must stay on one side of a split
inspection.py  what is in the table, in ten lines, with warnings
"""
