"""The course: its exercises, their grading, and the execution of its notebooks.

exercises/             `check(name, attempt)` and a module of checkers per notebook
grading.py             submissions of students -> a table of points
notebook_execution.py  execute the notebooks in place
"""
