"""Scores beside what they cost: passes, training rows, and what was forgotten."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from recorded_runs import recorded_run

from finetune_reg.errors import InputError
from finetune_reg.results.costs.equal_passes import COLUMNS, at_chosen_rates, equal_passes_table
from finetune_reg.results.costs.figures import forgetting_figure, passes_figure, rows_figure
from finetune_reg.results.costs.forgetting import forgetting_table
from finetune_reg.results.run_tables import results_table, summary_table

# Passes of a run (forward; 100 backward come on top) and scores of three seeds, by method and epochs.
RUNS = {
    ("vanilla", 3): (100, [0.60, 0.61, 0.62]),
    ("vanilla", 6): (300, [0.70, 0.72, 0.74]),
    ("r_drop", 3): (340, [0.68, 0.71, 0.71]),
    ("r_drop", 6): (900, [0.80, 0.82, 0.84]),
    ("sam", 3): (250, [0.50, 0.50, 0.50]),
}


def recorded_runs(**settings):
    return [
        recorded_run("rte", method, seed, score, forward_passes=forward, epochs=epochs, **settings)
        for (method, epochs), (forward, scores) in RUNS.items()
        for seed, score in enumerate(scores)
    ]


def by_setting(found: pd.DataFrame) -> pd.DataFrame:
    return found.assign(method=found.method.str.split("(").str[0]).set_index(["method", "epochs"])


def test_each_method_stands_beside_vanilla_of_as_many_passes():
    found = by_setting(equal_passes_table(results_table(recorded_runs())))
    assert found.passes.to_dict() == {
        ("Vanilla", 3): 200,
        ("Vanilla", 6): 400,
        ("RDrop", 3): 440,
        ("RDrop", 6): 1000,
        ("SAM", 3): 350,
    }
    r_drop = found.loc["RDrop", 3]
    assert (r_drop.baseline_epochs, r_drop.baseline_passes, r_drop.paired_n) == (6, 400, 3)
    assert r_drop.difference == pytest.approx(-0.02)  # of -0.02, -0.01 and -0.03: std 0.01, t quantile 4.303
    assert r_drop.difference_high - r_drop.difference == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert found.loc["SAM", 3].baseline_epochs == 6
    assert found.loc[[("RDrop", 6), ("Vanilla", 3), ("Vanilla", 6)]].difference.isna().all()  # none has as many passes
    assert found.p_holm.dropna().tolist() == [min(1.0, 2 * p) for p in found.p_value.dropna()]


def test_a_row_is_efficient_if_nothing_as_cheap_is_better():
    found = by_setting(equal_passes_table(results_table(recorded_runs())))
    assert found.efficient.to_dict() == {
        ("Vanilla", 3): True,
        ("Vanilla", 6): True,
        ("RDrop", 3): False,
        ("RDrop", 6): True,
        ("SAM", 3): False,
    }


def test_without_a_choice_only_runs_of_equal_rate_are_compared():
    other_rate = [recorded_run("rte", "r_drop", seed, 0.9, epochs=3, learning_rate=1e-5) for seed in range(3)]
    found = equal_passes_table(results_table([*recorded_runs(), *other_rate]))
    assert found[found.learning_rate == 1e-5].difference.isna().tolist() == [True]
    assert list(found) == COLUMNS


def with_search():
    """Runs at two rates, and held-out ones that choose the lower for vanilla and the higher for R-Drop."""
    higher = [replace_score(run, 0.1) for run in recorded_runs(learning_rate=6e-4)]
    folds = [
        recorded_run("rte", method, score=score, epochs=epochs, learning_rate=rate, held_out_fold=fold)
        for method, epochs in RUNS
        for rate, score in ((3e-4, 0.7), (6e-4, 0.6 if method == "vanilla" else 0.8))
        for fold in (0, 1)
    ]
    return [*recorded_runs(), *higher, *folds]


def replace_score(run, gain):
    return replace(run, score=run.score + gain, best_score=run.best_score + gain)


def test_rates_are_chosen_on_held_out_rows_and_the_search_is_counted():
    chosen = at_chosen_rates(results_table(with_search()))
    assert chosen.groupby("method").learning_rate.unique().map(list).to_dict() == {
        "vanilla": [3e-4],
        "r_drop": [6e-4],
        "sam": [6e-4],
    }
    assert set(chosen.tries) == {2}
    assert set(chosen.search_passes) == {4 * 200}  # two rates, two folds, 100 forward and 100 backward passes
    found = by_setting(equal_passes_table(chosen))
    assert found.loc["RDrop", 3].difference == pytest.approx(-0.02 + 0.1)  # across rates
    assert found.loc["RDrop", 3].learning_rate == 6e-4


def test_a_method_that_was_not_searched_is_refused_and_held_out_runs_do_not_report():
    runs = with_search()
    unsearched = [run for run in runs if run.settings["method"] != "sam" or run.settings["held_out_fold"] is None]
    with pytest.raises(InputError, match=r"SAM\(.*\) for 3 epochs on rte has no run on held-out rows"):
        at_chosen_rates(results_table(unsearched))
    with pytest.raises(InputError, match="choose, they do not report"):
        equal_passes_table(results_table(runs))


def test_a_diverged_run_counts_as_the_constant_prediction():
    diverged = recorded_run("rte", "sam", 3, None, status="diverged", epochs=3, forward_passes=250)
    found = by_setting(equal_passes_table(results_table([*recorded_runs(), diverged])))
    assert (found.loc["SAM", 3].n, found.loc["SAM", 3].failed) == (4, 4)
    assert found.loc["SAM", 3]["mean"] == 0.5


def forgetful(method, seed, after, distance, score=0.7):
    run = recorded_run("rte", method, seed, score)
    losses = {"masked_token_loss_before": 1.0, "masked_token_loss_after": after}
    return replace(run, distance_from_pretrained=distance, **losses)


def test_what_is_forgotten_is_the_rise_of_the_loss():
    runs = [forgetful("vanilla", 0, 1.4, 5.0), forgetful("vanilla", 1, 1.6, 7.0), forgetful("mixout", 0, 1.1, 2.0)]
    unmeasured = recorded_run("rte", "l2_sp")
    vanilla, mixout = forgetting_table(results_table([*runs, unmeasured])).itertuples()
    assert (vanilla.n, vanilla.loss_before, vanilla.distance, vanilla.score) == (2, 1.0, 6.0, 0.7)
    assert vanilla.forgotten == pytest.approx(0.5)
    assert vanilla.forgotten_high == pytest.approx(0.5 + 12.7062 * 0.1, rel=1e-4)  # std 0.1414 over the root of 2
    assert mixout.forgotten == pytest.approx(0.1)
    with pytest.raises(InputError, match="No run measured its masked-token loss"):
        forgetting_table(results_table([unmeasured]))
    with pytest.raises(InputError, match="No run measured its masked-token loss"):
        forgetting_table(results_table([unmeasured]).drop(columns="masked_token_loss_after"))


def drawn_values(axes) -> set[float]:
    """The heights of the points that are drawn with intervals."""
    return {round(float(y), 6) for container in axes.containers for y in container.lines[0].get_ydata()}


def test_figures_draw_the_numbers_of_their_tables():
    found = equal_passes_table(at_chosen_rates(results_table(with_search())))
    figure = passes_figure(found)
    left, right = figure.axes
    assert drawn_values(left) == set(found["mean"].round(6))
    assert drawn_values(right) == set(found.difference.dropna().astype(float).round(6))
    assert len(figure.legends[0].get_texts()) == 3
    sizes = [recorded_run("rte", "vanilla", seed, 0.6 + n / 1000, n_train=n) for n in (16, 64) for seed in (0, 1)]
    summary = summary_table(results_table(sizes))
    (axes,) = rows_figure(summary).axes
    assert drawn_values(axes) == {0.616, 0.664}
    assert list(axes.get_xticks()) == [16, 64]
    table = forgetting_table(results_table([forgetful("vanilla", seed, 1.4 + seed, 5.0) for seed in (0, 1)]))
    across = [axes.containers[0].lines[0].get_xdata().tolist() for axes in forgetting_figure(table).axes]
    assert across == [pytest.approx([0.9]), [5.0], [0.7]]
    plt.close("all")
