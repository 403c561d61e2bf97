"""Plans, the template under real papermill, and what is refused before a kernel starts."""

from __future__ import annotations

from dataclasses import replace

import nbformat
import papermill
import pytest
from command_line import call
from sweep_plans import comparable, stored_records

from finetune_reg.errors import InputError
from finetune_reg.experiment.notebook_parameters import TEMPLATE_PARAMETERS, settings_from
from finetune_reg.experiment.records import read_records
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.hyperparameters.typed_parameters import load_yaml, parse_yaml
from finetune_reg.sweep import PLANS, TEMPLATE, NotebookRun, find_plan, read_plan, run_sweep
from finetune_reg.sweep.commands import print_plan
from finetune_reg.sweep.cost import (
    GPU_OPERATIONS_PER_SECOND,
    MODEL_SIZES,
    OPERATIONS_PER_SECOND,
    SECONDS_PER_NOTEBOOK,
    SECONDS_PER_UPDATE_AND_PARAMETER,
    TASK_SIZES,
    count_operations,
    count_passes,
    estimate_costs,
)
from finetune_reg.sweep.plan import store_plan
from finetune_reg.sweep.run_locks import lock_runs
from finetune_reg.sweep.status import count_states, sweep_status
from finetune_reg.tasks import TASKS, load_split


@pytest.fixture
def parameters(tiny_world):
    return {"task": "rte", "n_train": 8, "epochs": 1, "seeds": [0, 1], **tiny_world}


def test_two_workers_run_the_template_and_a_second_sweep_redoes_nothing(parameters, tmp_path):
    notebooks = [NotebookRun(parameters), NotebookRun(parameters | {"method": "mixout"})]
    run_sweep(notebooks, tmp_path, slots=2)
    for settings in [settings for notebook in notebooks for settings in notebook.settings]:
        run(settings, tmp_path / "in_this_process")
    assert len(comparable(tmp_path)) == 4
    assert comparable(tmp_path) == comparable(tmp_path / "in_this_process")
    assert all(notebook.is_finished(tmp_path) for notebook in notebooks)
    executed = sorted((tmp_path / "notebooks").glob("*.ipynb"))
    assert [path.name for path in executed] == sorted(notebook.name for notebook in notebooks)
    stamps, records = [path.stat().st_mtime_ns for path in executed], stored_records(tmp_path)
    run_sweep(notebooks, tmp_path)
    assert [path.stat().st_mtime_ns for path in executed] == stamps
    assert stored_records(tmp_path) == records


def test_plain_papermill_is_refused_by_the_notebook_itself(parameters, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'learning_rate'"):
        papermill.execute_notebook(
            TEMPLATE,
            tmp_path / "out.ipynb",
            parameters=parameters | {"learning_rat": 1e-3, "output_dir": str(tmp_path)},
            kernel_name="python3",
            progress_bar=False,
        )
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"seed": 3}, "did you mean 'seeds'"),
        ({"learning_rat": 1e-3}, "did you mean 'learning_rate'"),
        ({"learning_rate": "1e-3"}, "to be a number"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "different integers"),
        ({"seeds": 3}, "a list of integers"),
        ({"vary": ["head"]}, "vary to be a list of 'init' or 'order' or 'noise'"),
        ({"vary": [], "seeds": [1, 2]}, "seeds that change nothing"),
        ({"n_train": "200"}, "n_train to be an integer or None"),
        ({"method_hyperparameters": {"mix": 1}}, "method 'vanilla'"),
        ({"method": "mixout", "method_hyperparameters": {"mix_probabilty": 0.5}}, "did you mean 'mix_probability'"),
    ],
)
def test_wrong_parameters_are_refused_before_a_kernel_starts(parameters, wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        NotebookRun(parameters | wrong)


def test_a_notebook_namespace_is_read_past_modules_functions_and_names_of_ipython():
    namespace = {"In": [], "Out": {}, "_i1": "x", "get_ipython": print, "exit": exit, "settings_from": settings_from}
    assert settings_from(namespace | {"task": "similarity", "seeds": [4]}) == [
        RunSettings(task="similarity").with_seed(4)
    ]


@pytest.mark.parametrize(
    ("given", "seeded"),
    [
        ({}, ["init", "order", "noise"]),
        ({"seed_subset": None}, ["init", "order", "noise", "subset"]),
        ({"vary": ["order"]}, ["order"]),
        ({"vary": [], "seed_subset": None}, ["subset"]),
    ],
)
def test_a_seed_is_that_of_what_varies_and_all_else_stays(given, seeded):
    first, second = settings_from({"seeds": [4, 5]} | given)
    for seed, settings in ((4, first), (5, second)):
        for name in ("init", "order", "noise", "subset"):
            assert getattr(settings, f"seed_{name}") == (seed if name in seeded else 0)
    assert first.run_id != second.run_id


def test_runs_that_vary_in_the_order_alone_are_made_again_by_their_own_seeds():
    """The head's seed is 0 in all of them, so it cannot tell them apart."""
    job = NotebookRun({"task": "entailment", "seeds": [3, 7], "vary": ["order"]}).job
    assert [run.seed for run in job.runs] == [3, 7]
    assert [run.settings["seed_order"] for run in job.runs] == [3, 7]


def test_defaults_of_the_template_are_those_of_run_settings():
    cell = next(c for c in nbformat.read(TEMPLATE, 4).cells if "parameters" in c.metadata.get("tags", []))
    namespace: dict = {}
    exec(cell.source, namespace)
    del namespace["__builtins__"]
    assert namespace.keys() == TEMPLATE_PARAMETERS.keys()
    assert settings_from(namespace) == settings_from({"seeds": namespace["seeds"]})


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PLANS.glob("*.yaml")) if "scales" not in load_yaml(path)],
    ids=lambda path: path.stem,
)
def test_every_plan_without_scales_is_valid(path):
    runs = read_plan(path)
    assert len({run.name for run in runs}) == len(runs)


def test_a_plan_is_the_product_of_its_grid(tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "base: {learning_rate: 2e-5}\ngrid:\n  task: [entailment, similarity]\n"
        "  method: [vanilla, mixout: {mix_probability: 0.9}]\n"
    )
    settings = [settings_from(run.parameters)[0] for run in read_plan(plan)]
    assert [(s.task, s.method) for s in settings] == [
        ("entailment", "vanilla"),
        ("entailment", "mixout"),
        ("similarity", "vanilla"),
        ("similarity", "mixout"),
    ]
    assert settings[1].method_hyperparameters["mix_probability"] == 0.9
    assert settings[0].learning_rate == 2e-5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a list", "not a sweep plan"),
        ("grid: {task: [rte}", "not valid YAML"),
        ("grids: {}", "not a sweep plan"),
        ("grid: [rte]", "grid to be a mapping"),
        ("base: rte\ngrid: {task: [rte]}", "base to be a mapping"),
        ("grid: {tusk: [rte]}", "did you mean 'task'"),
        ("grid: {task: [entailmnt]}", "did you mean 'entailment'"),
        ("grid: {task: entailment}", "a list of values"),
        ("grid: {method: [{mixout: {}, vanilla: {}}]}", "one name with its hyperparameters"),
        ("grid: {task: [rte]}\nexclude: {task: rte}", "exclude to be a list"),
        ("grid: {task: [rte]}\nexclude: [rte]", "mappings like"),
        ("grid: {task: [rte]}\nexclude: [{tusk: rte}]", "did you mean 'task'"),
        ("grid: {task: [rte, cola]}\nexclude: [{task: cla}]", "did you mean 'cola'"),
        ("grid: {method: [mixout: {}]}\nexclude: [{method: mixot}]", "did you mean 'mixout'"),
        ("grid: {task: [rte]}\nexclude: [{task: rte}]", "excludes every run"),
    ],
)
def test_broken_plans_are_refused(tmp_path, text, sentence):
    plan = tmp_path / "plan.yaml"
    plan.write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_plan(plan)


def test_excluded_points_are_left_out_by_name_or_by_variant(tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "grid:\n  task: [entailment, similarity, paraphrase]\n  method: [vanilla, vanilla: {dropout: 0.0}, mixout]\n"
        "exclude:\n  - {task: similarity, method: vanilla}\n  - {method: {vanilla: {dropout: 0.0}}}\n"
        "  - {task: paraphrase}\n"
    )
    kept = [(run.settings[0].task, run.label) for run in read_plan(plan)]
    assert kept == [
        ("entailment", "Vanilla()"),
        ("entailment", "Mixout(mix_probability=0.7)"),
        ("similarity", "Mixout(mix_probability=0.7)"),
    ]


def test_a_plan_is_priced_in_passes_and_in_the_time_of_finished_runs(parameters, tmp_path):
    plain, other = NotebookRun(parameters | {"batch_size": 4, "epochs": 3}), NotebookRun(parameters | {"task": "stsb"})
    assert count_passes(plain.settings[0]) == (6, 6)
    (cost,) = estimate_costs([plain], tmp_path)
    assert (cost.left, cost.done, cost.passes, cost.basis) == (2, 0, 24, "size of bert-base")
    record = run(plain.settings[0], tmp_path)
    assert (record.forward_passes, record.backward_passes) == (6, 6)
    begun, new = estimate_costs([plain, other], tmp_path)
    assert (begun.left, begun.done, begun.passes, begun.basis) == (1, 1, 12, "same task and method")
    assert begun.seconds == pytest.approx(SECONDS_PER_NOTEBOOK + record.wall_seconds)
    assert (new.left, new.basis) == (2, "same model")


def test_operations_are_those_of_the_blocks_for_each_token_in_training_and_evaluation():
    settings = RunSettings(task="rte", source="local", model_name="bert-base-uncased", n_train=100, epochs=4)
    settings = replace(settings, batch_size=10, evaluate_every=3, evaluate_on=["scitail"])
    per_token, tokens, transferred = 2 * 85.0e6, 66.3, 2_126 * 38.9
    training = 3 * 4 * 100 * tokens  # one forward pass, and backward twice as much
    expected = per_token * (training + 2 * 277 * tokens + transferred)
    assert count_operations(settings) == pytest.approx(expected)
    larger = replace(settings, model_name="google-bert/bert-large-uncased")
    assert count_operations(larger) / count_operations(settings) == pytest.approx(302 / 85)


def test_pooled_and_held_out_rows_are_counted():
    pooled = RunSettings(task="rte", source="local", split="pooled", n_train=None, batch_size=1, epochs=1)
    assert count_passes(pooled)[0] == 2_490 + 277 - 554
    held_out = RunSettings(n_train=100, held_out_fold=0, batch_size=1, epochs=1)
    assert count_passes(held_out)[0] == 80


def test_the_search_of_weight_mixup_is_priced_as_it_is_counted(tiny_world, tmp_path):
    searching = {"n_searches": 2, "search_epochs": 1.0}
    settings = RunSettings(
        task="rte", n_train=20, epochs=1, method="attention_guided_weight_mixup", method_hyperparameters=searching,
        **tiny_world,
    )  # fmt: skip
    record = run(settings, tmp_path)
    assert count_passes(settings) == (record.forward_passes, record.backward_passes)


def test_a_search_is_also_priced_for_moving_all_weights_before_each_pass(tmp_path):
    searching = {"method": "attention_guided_weight_mixup", "method_hyperparameters": {"n_searches": 1}}
    plans = [NotebookRun({"n_train": 300, "seeds": [0]} | chosen) for chosen in ({}, searching)]
    plain, searched = estimate_costs(plans, tmp_path)
    passes = (searched.passes - plain.passes) // 2
    computing = (searched.operations - plain.operations) / OPERATIONS_PER_SECOND["float32"]
    moving = passes * SECONDS_PER_UPDATE_AND_PARAMETER * MODEL_SIZES["pocket"].parameters
    assert passes == 5 * 48
    assert searched.seconds - plain.seconds == pytest.approx(computing + moving)


@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.embedded], ids=lambda task: task.name)
def test_sizes_of_the_toy_tasks_are_those_of_their_splits(task):
    splits = [load_split(task, split, "pocket") for split in ("train", task.validation_split)]
    size = TASK_SIZES[task.name]
    assert [len(rows) for rows in splits] == [size.training_rows, size.evaluation_rows]


def test_every_task_has_a_size():
    assert TASK_SIZES.keys() == TASKS.keys()


def test_the_plan_command_starts_nothing(tmp_path):
    shown = call("sweep", "plan", "pocket", "--output-dir", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    assert "60 runs in 12 notebooks, 0 done." in shown.stdout
    assert not (tmp_path / "out").exists()


def test_the_status_command_counts_planned_and_made_runs(parameters, tmp_path):
    notebook = NotebookRun(parameters)
    run(notebook.settings[1], tmp_path)
    store_plan([notebook], tmp_path)
    assert count_states(tmp_path, notebook.run_ids) == {"done": 1, "waiting": 1}
    with lock_runs(tmp_path, notebook.run_ids):
        assert count_states(tmp_path, notebook.run_ids) == {"done": 1, "running": 1}
    assert "Vanilla()" in call("sweep", "status", tmp_path).stdout
    with pytest.raises(InputError, match="holds no sweep"):
        sweep_status(tmp_path / "empty")


def test_an_unknown_plan_is_refused():
    with pytest.raises(InputError, match="did you mean 'pocket'"):
        find_plan("poket")


@pytest.mark.parametrize(
    ("text", "value"),
    [("2e-5", 2e-5), ("1", 1), ("-1.5", -1.5), ("1E3", 1e3), ("[0, 1]", [0, 1]), ("vanilla", "vanilla"), ("on", True)],
)
def test_numbers_in_yaml_are_numbers(text, value):
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_the_command_runs_and_reports(parameters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [f"--parameter={name}={value}" for name, value in parameters.items()]
    finished = call("run", *arguments, "--output-dir", "out")
    assert finished.returncode == 0, finished.stderr
    assert "report.html" in finished.stdout
    assert len(read_records(tmp_path / "out")) == 2
    assert "2 runs" in call("collect", "out", "--out", "table.parquet").stdout


def test_a_plan_tells_its_hours_on_a_stated_gpu(capsys, tmp_path):
    runs = read_plan(find_plan("mixout-table1"), "paper")
    print_plan(runs, tmp_path)
    operations = sum(count_operations(settings) for run in runs for settings in run.settings)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"take {operations / GPU_OPERATIONS_PER_SECOND / 3600:.0f} h on an A100 at 30 %" in printed
