"""The course: its exercises, their grading, and the execution of its notebooks.

exercises/             `check(name, attempt)` and a module of checkers per notebook
grading/               submissions of students -> a table of points, and a page of feedback for each
student_bundle.py      the notebooks without their solutions, for a class
otter_export.py        the same with test files for otter-grader
commands.py            `finetune-reg course`
notebook_execution.py  execute the notebooks in place
dependencies.py        which notebooks come before which
outcomes.py            what a notebook's table shows, in sentences
predictions.py         questions before an outcome: `ask(name, answer, evidence)`
sliders.py             a figure to play with: `play(draw, name, values, start)`
"""
