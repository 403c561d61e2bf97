"""An experiment: settings in, one run, a record out.

settings.py      everything that decides a run's outcome      run.py                  fine-tune, evaluate, record
records.py       what a record holds; atomic JSON files       encoders.py             a pretrained model by its name
pass_counting.py forward and backward passes, counted         environment.py          versions, commit, device
notebook_parameters.py  parameters of the template notebook, checked
"""
