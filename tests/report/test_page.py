"""Records -> figures, page and checklist."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from recorded_runs import recorded_run

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import write_record
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.report.at_a_glance import outcome_counts
from finetune_reg.report.page import HEADERS, checklist, write_report
from finetune_reg.results.plotting import (
    expected_performance_figure,
    improvement_figure,
    learning_curves_figure,
    plot_learning_curves,
    scores_figure,
)
from finetune_reg.results.run_tables import aggregate_table, collect

DIVERGED = "The loss is nan at update 3: lower the learning rate."


def _records():
    for task in ("rte", "stsb"):
        for seed in range(6):
            yield recorded_run(task, seed=seed, score=0.60 + 0.01 * seed)
            yield recorded_run(task, "mixout", seed, 0.62 + 0.01 * seed, forward_passes=200)
    yield recorded_run("rte", "l2_sp", score=None, status="diverged")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for record in _records():
        write_record(record, folder)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder)[0].read_text()


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.open, self.mismatched = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.mismatched.append(tag)


def test_the_page_is_whole_and_needs_nothing_but_itself(page):
    parsed = _Page(page)
    assert not parsed.open
    assert not parsed.mismatched
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in parsed.links)
    assert "url(" not in page
    assert "@media print" in page
    assert "prefers-color-scheme: dark" in page


def test_every_figure_is_inside_the_page_and_beside_it_and_has_a_text(folder, page):
    images = _Page(page).images
    assert len(images) == 4
    assert all(len(image["alt"]) > 40 for image in images)
    names = {path.name.split("_Model")[0] for path in folder.glob("*.png")}
    assert names == {"scores", "learning_curves", "expected_performance", "improvement"}
    assert (folder / "results.parquet").is_file()


def test_the_page_has_the_table_that_the_command_prints(folder, page):
    _, tables = write_report(folder)
    ((heading, rows),) = tables.items()
    assert heading == "Model pocket, source pocket"
    assert all(len(row) == len(HEADERS) for row in rows)
    first = ["rte (accuracy)", "Vanilla()", "6", "0", "62.5 ± 1.9", "[60.5, 64.5]", "62.5", "65.0"]
    assert rows[0] == [*first, "", "", "", "200"]
    mixout = next(row for row in rows if row[1].startswith("Mixout"))
    assert mixout[8:] == ["+2.0 [2.0, 2.0]", "0.031", "0.031", "300"]
    cells = [" ".join(cell.split()) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, re.DOTALL)]
    for row in rows:
        assert set(row) <= set(cells)


def test_where_vanilla_was_trained_longer_the_page_compares_at_equal_cost(folder, page, tmp_path):
    assert "At equal cost" not in page  # vanilla has one number of epochs
    for seed in range(3):
        for epochs, method in ((3, "vanilla"), (6, "vanilla"), (3, "r_drop")):
            passes = 100 if (epochs, method) == (3, "vanilla") else 300
            score = 0.6 + 0.01 * epochs + 0.01 * (method == "r_drop") + 0.001 * seed
            write_record(recorded_run("rte", method, seed, score, forward_passes=passes, epochs=epochs), tmp_path)
    compared = write_report(tmp_path)[0].read_text()
    assert "At equal cost: Model pocket, source pocket, 200 training rows" in compared
    assert re.search(
        r"RDrop\(strength=1.0\)</td>.*?>-2.0 \[-2.0, -2.0\]</td>\s*<td[^>]*>0.250</td>", compared, re.DOTALL
    )
    assert list(tmp_path.glob("equal_cost_At-equal-cost-Model-pocket*.png"))
    write_record(recorded_run("rte", held_out_fold=0, epochs=3), tmp_path)
    path, tables = write_report(tmp_path)
    refused = path.read_text()
    assert not any("held_out_fold" in heading for heading in tables)  # beside others, such runs only choose
    assert "Not compared: RDrop(strength=1.0) for 3 epochs on rte has no run on held-out rows" in refused


def test_the_page_says_what_interval_it_shows_and_that_pocket_is_a_toy(page):
    assert "95 % t interval" in " ".join(page.split())
    assert "Pocket is a toy" in page


def test_the_page_has_settings_hardware_versions_and_commit(page):
    for fact in ("learning_rate 0.0003", "cpu, Linux, torch threads 1", "torch 2.13.0", "commit abc123"):
        assert fact in page


def test_planned_runs_without_a_record_are_named(folder):
    recorded, missing = RunSettings(task="rte"), RunSettings(task="mrpc", method="mixout").with_seed(7)
    text = write_report(folder, planned=[recorded, missing])[0].read_text()
    assert "1 of 2 planned runs left no record" in text
    assert missing.run_id in text
    assert "All 1 planned runs left a record" in write_report(folder, planned=[recorded])[0].read_text()


def test_diverged_runs_are_listed_with_their_error(page):
    assert DIVERGED in page
    assert "No plan was given" in page


def test_every_claim_is_judged_or_named_as_not_run(page):
    from finetune_reg.results.claims import MECHANISMS, load_claims

    claims = [*load_claims(), *load_claims(MECHANISMS)]
    (count,) = re.findall(r"Not run here, (\d+) claims", page)
    judged = re.findall(r'<td class="verdict">(.*?)</td>', page)
    assert int(count) + len(judged) == len(claims)


@pytest.mark.parametrize("writer", [(pd.DataFrame, "to_parquet"), (Figure, "savefig"), (Path, "write_text")])
def test_a_report_that_is_interrupted_leaves_each_file_whole(tmp_path, monkeypatch, writer):
    write_record(recorded_run(score=0.6), tmp_path)
    write_report(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert {path.suffix for path in before} == {".html", ".parquet", ".png"}
    write_record(recorded_run(seed=1, score=0.7), tmp_path)

    def half_of_it(written, file, *_, **__):
        (written if isinstance(written, Path) else file).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*writer, half_of_it)
        with pytest.raises(KeyboardInterrupt):
            write_report(tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert set(after) == set(before)
    assert b"half" not in after.values()


def test_published_figures_appear_beside_ours(folder):
    figure = {"paper": "lee2020mixout", "method_name": "mixout", "model": "pocket", "task": "rte", "metric": "accuracy"}
    figure |= {"n_train": 2490, "statistic": "mean", "value": 68.5, "source": "Table 1"}
    text = write_report(folder, published=pd.DataFrame([figure]))[0].read_text()
    section = text[text.index("Beside published figures") :].split("</table>")[0]
    for cell in ("lee2020mixout, Table 1", "2490", "68.5 ± –", "pocket, dev", "200", "64.5 ± 1.9", "[62.5, 66.5]"):
        assert f">{cell}</td>" in section
    assert "No published figure" in write_report(folder)[0].read_text()


def test_names_from_records_are_text_and_not_markup(tmp_path):
    failed = recorded_run(score=None, status="failed", majority_score=None, forward_passes=None)
    failed.error = "ValueError: <script>alert(1)</script>"
    write_record(failed, tmp_path)
    text = write_report(tmp_path)[0].read_text()
    assert "&lt;script&gt;" in text
    assert "<script>" not in text


def test_a_page_of_nothing_but_runs_without_results_is_written(tmp_path):
    for seed in range(2):
        record = recorded_run(seed=seed, score=None, status="failed", majority_score=None, forward_passes=None)
        record.backward_passes = record.wall_seconds = record.peak_memory_mb = record.n_parameters = None
        record.weights_hash, record.subset, record.environment = None, {}, {}
        write_record(record, tmp_path)
    page, tables = write_report(tmp_path)
    ((row,),) = tables.values()
    assert row[2:5] == ["0", "2", "– ± –"]
    assert "2 failed" in page.read_text()
    assert "unknown" in checklist(tmp_path)


def test_recipes_get_parts_and_figures_of_their_own(tmp_path):
    for rate in (1e-4, 2e-4):
        write_record(recorded_run(learning_rate=rate), tmp_path)
    _, tables = write_report(tmp_path)
    assert sorted(tables) == [f"Model pocket, source pocket, learning_rate {rate}" for rate in (1e-4, 2e-4)]
    assert len(list(tmp_path.glob("scores_*.png"))) == 2


def test_the_checklist_is_answered_from_the_records_and_leaves_the_rest_to_the_author(folder):
    text = checklist(folder)
    for answer in (
        "- [x] **Number of runs:** 25 (24 ok, 1 diverged), 1 to 6 per method and task",
        "seed_init 0, 1, 2, 3, 4, 5;",
        "hash-of-rte, hash-of-stsb",
        "36.0 s per run, 0.25 h in all; 200 to 300 forward and backward passes per run",
        'Mixout(mix_probability=0.7) {"mix_probability": 0.7',
        "commit abc123\n",
        "- [ ] Licences",
    ):
        assert answer in text


def test_the_page_says_at_a_glance_what_it_is_about(page):
    glance = " ".join(page[page.index("At a glance") : page.index("<nav>")].split())
    for fact in ("3 methods on rte, stsb", "pocket, source pocket, 200 training rows", "25 (24 ok, 1 diverged)"):
        assert f"<dd>{fact}</dd>" in glance
    assert "<dd>15.0 minutes of training and evaluation</dd>" in glance
    judged = re.findall(r'<td class="verdict">(.*?)</td>', page)
    counted = re.findall(r"(\d+) (?:[a-z ]+)", re.search(r"Claims of papers</dt><dd>(.*?)</dd>", glance)[1])
    assert len(judged) + int(re.search(r"Not run here, (\d+) claims", page)[1]) >= sum(map(int, counted)) > 0


def test_verdicts_are_counted_over_scales():
    def verdict(name, outcome, reduced=True):
        return SimpleNamespace(claim=SimpleNamespace(id=name), outcome=outcome, reduced=reduced)

    elsewhere = [verdict("a", "undecided"), verdict("b", "not run", False), verdict("c", "not run", False)]
    here = [verdict("a", "reproduced"), verdict("b", "undecided"), verdict("c", "not run", False)]
    assert outcome_counts([*elsewhere, *here]) == "1 reproduced, 2 undecided (at reduced scale); 1 not run"
    assert outcome_counts([verdict("a", "reproduced"), verdict("b", "reproduced", False)]) == "2 reproduced"
    assert outcome_counts([]) == "not judged"


def test_every_panel_has_numbers_on_its_axis(folder):
    table = collect(folder)
    figures = [scores_figure(table), learning_curves_figure(table), expected_performance_figure(table)]
    for figure in figures:
        figure.canvas.draw()
        for axes in figure.axes:
            low, high = axes.get_xlim()
            labels = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
            assert sum(bool(label.get_text()) for label in labels) >= 2
    plt.close("all")


def test_figures_label_every_axis(folder):
    table = collect(folder)
    figures = [scores_figure(table), learning_curves_figure(table), expected_performance_figure(table)]
    for figure in [*figures, improvement_figure(aggregate_table(table))]:
        assert all(axes.get_xlabel() for axes in figure.axes)
    assert [axes.get_xlabel() for axes in figures[0].axes] == ["accuracy", "Spearman correlation"]
    assert {axes.get_xlabel() for axes in figures[2].axes} == {"forward + backward passes"}
    assert all(axes.get_ylabel() for figure in figures[1:] for axes in figure.axes)
    plt.close("all")


def test_more_tasks_than_fit_in_a_line_go_to_the_next():
    from finetune_reg.results.run_tables import results_table

    tasks = ("rte", "stsb", "cola", "mrpc", "sst2")
    figure = scores_figure(results_table([recorded_run(task) for task in tasks]))
    assert len(figure.axes) == 5
    assert len({round(axes.get_position().y0, 3) for axes in figure.axes}) == 2
    plt.close(figure)


def test_learning_curves_draw_a_line_per_run_and_a_bold_mean(folder):
    table = collect(folder)
    chosen = table[(table.task == "rte") & (table.method == "vanilla")]
    _, axes = plt.subplots()
    plot_learning_curves(chosen, axes, average=True)
    mean, majority = axes.lines
    (faint,) = axes.collections
    assert len(faint.get_segments()) == len(chosen)
    expected = [pd.DataFrame(json.loads(history)).accuracy for history in chosen.history]
    assert list(mean.get_ydata()) == pytest.approx(list(sum(expected) / len(expected)))
    first = pd.DataFrame(json.loads(chosen.history.iloc[0]))
    assert faint.get_segments()[0].tolist() == first[["epoch", "accuracy"]].to_numpy(dtype=float).tolist()
    assert mean.get_linewidth() > faint.get_linewidth()
    assert majority.get_ydata()[0] == 0.5
    plt.close("all")


def test_expected_performance_is_drawn_against_the_passes_of_k_runs(folder):
    table = collect(folder)
    figure = expected_performance_figure(table[(table.task == "rte") & (table.method == "mixout")])
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata()) == [300.0 * k for k in range(1, 7)]
    assert line.get_ydata()[0] == pytest.approx(0.645)
    plt.close(figure)


def test_scores_on_other_tasks_are_compared_with_vanilla(tmp_path):
    for method, gain in (("vanilla", 0.0), ("mixout", 0.05)):
        for seed in range(2):
            record = recorded_run("mnli", method, seed, source="local", evaluate_on=["sick", "rte"])
            record.transfer = {"sick": {"accuracy": 0.5 + gain}, "rte": {"accuracy": 0.6}}
            write_record(record, tmp_path)
    text = write_report(tmp_path)[0].read_text()
    table = text[text.index("Scored on other tasks") :].split("</table>")[0]
    assert "sick, trained on mnli (accuracy)" in table
    cells = [" ".join(cell.split()) for cell in re.findall(r"<td[^>]*>(.*?)</td>", table, re.DOTALL)]
    assert cells[:5] == ["Vanilla()", "2", "0", "50.0 ± 0.0", "[50.0, 50.0]"]
    mixout = cells.index("Mixout(mix_probability=0.7)")
    assert cells[mixout + 7] == "+5.0 [5.0, 5.0]"


def test_a_page_without_other_tasks_has_no_table_of_them(page):
    assert "Scored on other tasks" not in page


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run records"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="no run records"):
        checklist(Path(tmp_path))
