"""What MethodTrainer is made of, beside the six calls.

run_context.py        what methods are told about the run
refusals.py           what it cannot do
method_checkpoint.py  the state of a method in a checkpoint
processes.py          what several processes must have in common
loss_parts.py         the task's loss and the method's part, for the log
"""
