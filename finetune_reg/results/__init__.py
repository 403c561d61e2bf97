"""From records to what they show: tables, comparisons, verdicts, figures.

method_labels.py         what methods are called, and which are the same
run_tables.py            records -> one row per run -> summaries per setting and over tasks
table_checks.py          one row per run, equal rows and weights under equal names
restoring.py             from a table back to records
statistics.py            intervals, tests, aggregates over tasks
comparable_runs.py       which runs may stand side by side
paired_differences.py    how far two methods differ on equal seeds, alone and among many comparisons
published_results.py     the figures that papers report
published_comparison.py  ours beside theirs
claims.py                what papers claim, as data
planned_claims.py        what the runs of a plan can decide
verdicts.py              what our runs say to a claim
selection.py             hyperparameters, chosen on held-out rows
plotting.py              the figures of notebooks and reports
costs/                   scores beside passes, training rows and what is forgotten
"""
