"""What recompute.py is made of.

`recorded_scores` computes numbers from the recorded runs, `notebook_tables` those of notebook 14's tables,
`written_numbers` reads numbers from the documents, `verdict_sentences` does both for the sentences of verdicts, and
`sentences.toml` says what the numbers in other sentences are.
"""
