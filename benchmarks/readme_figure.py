"""Draw the figure of the README, from the records in data/results.

python benchmarks/readme_figure.py
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from finetune_reg.paths import RESULTS, ROOT
from finetune_reg.results.plotting import PALETTE, save, use_style
from finetune_reg.results.run_tables import load_results

ROWS = {
    "Vanilla()": "plain fine-tuning",
    "Vanilla(dropout=0.0)": "without dropout",
    "Mixout(mix_probability=0.7)": "with Mixout",
}


def main() -> None:
    use_style()
    recorded = load_results(RESULTS / "failures_cola_mpnet.parquet")
    figure, axes = plt.subplots(figsize=(7.5, 3.4))
    for row, label in enumerate(ROWS):
        runs = recorded[recorded.method_label == label]
        failed = runs.below_majority.astype(bool).to_numpy()
        for chosen, color in ((failed, PALETTE[3]), (~failed, PALETTE[0])):
            beside = np.linspace(-0.36, 0.36, chosen.sum() + 2)[1:-1]  # so that no point hides another
            axes.scatter(runs.score[chosen], row + beside, color=color, s=40, edgecolor="white", zorder=3)
        axes.text(0.435, row, f"{failed.sum()} of {len(runs)} runs fail", va="center", fontsize=11)
    axes.axvline(0, color="0.35", linestyle="--", linewidth=1, label="an answer that ignores the sentence")
    axes.legend(loc="upper left", bbox_to_anchor=(0.02, 1.15), fontsize=9, frameon=False)
    axes.set(xlabel="score of a run on CoLA (Matthews correlation)", xlim=(-0.03, 0.42), ylim=(2.5, -0.5))
    axes.set_xticks([0, 0.1, 0.2, 0.3, 0.4])
    axes.set_yticks(range(3), ROWS.values(), fontsize=12)
    axes.grid(axis="y", visible=False)
    figure.set_dpi(150)
    save(figure, ROOT / "docs" / "runs_that_fail.png")


if __name__ == "__main__":
    main()
