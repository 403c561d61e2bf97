"""Plans that are refused: what is given, and what the one sentence says. Each is answered within two seconds."""

from __future__ import annotations

import time
from itertools import pairwise
from string import ascii_lowercase

import pytest

from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.typed_parameters import parse_yaml
from finetune_reg.sweep import NotebookRun, read_plan

GRID = "grid: {task: [entailment, similarity], method: [vanilla, mixout]}\n"
ALIASES = "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in pairwise(ascii_lowercase[:10]))
MERGES = "\n".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}" for a, b in pairwise(ascii_lowercase[:10]))
DIGITS = ", ".join(map(str, range(10)))
# Seven settings of ten values each: 1e7 points.
SEVEN = ("n_train", "epochs", "batch_size", "evaluate_every", "max_length", "seed_subset", "held_out_fold")

TWO_MEANINGS = [
    ("base: {epochs: 3, epochs: 5}\n" + GRID, "'epochs' is there twice"),
    ("base: {epochs: 3, 'epochs': 5}\n" + GRID, "'epochs' is there twice"),
    (GRID + GRID, "'grid' is there twice"),
    ("grid: {task: [entailment], task: [similarity]}", "'task' is there twice"),
    ("grid: {method: [{mixout: {}, mixout: {mix_probability: 0.5}}]}", "'mixout' is there twice"),
    ("base: {method_hyperparameters: {dropout: 0.0, dropout: 0.1}}\n" + GRID, "'dropout' is there twice"),
    (GRID + "scales: {small: {}, small: {}}", "'small' is there twice"),
    (GRID + "by_task: {similarity: {epochs: 3}, similarity: {epochs: 5}}", "'similarity' is there twice"),
    ("a: &a {epochs: 3}\nb: &b {epochs: 5}\nbase: {<<: *a, <<: *b}\n" + GRID, "'<<' is there twice"),
    *(
        (f"base: {{{name}: {number}}}\n{GRID}", f"line 1: '{number}' is not the same number for every reader")
        for name, number in (
            ("n_train", "010"), ("n_train", "-010"), ("n_train", "1:30"), ("n_train", "1_000"), ("epochs", "0x1F"),
            ("epochs", "0b11"), ("epochs", "0o17"), ("epochs", "08"), ("batch_size", "1:30:15"), ("epochs", "+012"),
            ("learning_rate", "1:30.5"), ("seeds", "07"), ("n_train", "9" * 19),
        )
    ),
    (f"base: {{n_train: {'9' * 5_000}}}\n{GRID}", "is not the same number for every reader"),
    (f"base: {{n_train: -{'9' * 5_000}}}\n{GRID}", "is not the same number for every reader"),
    (f"base: {{learning_rate: 1.{'9' * 5_000}e5000}}\n{GRID}", "is too large for a number"),
    ("base: {learning_rate: 1e999}\n" + GRID, "'1e999' is too large"),
    ("base: {1: 3}\n" + GRID, "must be text"),
    ("base: {on: 3}\n" + GRID, "must be text"),
    ("base: {[epochs]: 3}\n" + GRID, "must be text"),
    ("base: {null: 3}\n" + GRID, "must be text"),
    ("grid: {method: [{guided_dropout: {scores: {0: 0.5}}}]}", "must be text"),
]  # fmt: skip

WITHOUT_END = [
    (f"a: &a [{DIGITS}]\n{ALIASES}\ngrid: *i", "more than 20000 values"),
    (f"a: &a {{x: 1}}\n{MERGES}\ngrid: *i", "more than 20000 values"),
    ("grid: &a {task: *a}", "&a contains itself"),
    ("grid: {task: &a [*a]}", "&a contains itself"),
    ("grid: {task: *nowhere}", "undefined alias"),
    ("grid: {task: " + "[" * 3_000 + "]" * 3_000 + "}", "nested deeper than 40 levels"),
    ("grid: " + "{task: " * 3_000 + "}" * 3_000, "nested deeper than 40 levels"),
    ("- " * 3_000, "nested deeper than 40 levels"),
    ("[" * 3_000, "nested deeper than 40 levels"),
    ("\n".join(" " * i + "a:" for i in range(400)), "nested deeper than 40 levels"),
    (f"grid: {{task: [{'a, ' * 30_000}]}}", "more than 20000 values"),
    (f"grid: {{task: [{'entailment, ' * 30_000}]}}", "longer than 200000 characters"),
    ("grid: {" + ", ".join(f"{name}: [{DIGITS}]" for name in SEVEN) + "}", "10,000,000 points, more than 10,000"),
    ("grid: {" + ", ".join(f"{name}: [{DIGITS}]" for name in SEVEN[:5]) + "}", "100,000 points, more than 10,000"),
    (f"grid: {{task: [entailment], n_train: {list(range(1, 10_002))}}}", "10,001 points, more than 10,000"),
    (
        f"base: {{seeds: {list(range(200))}}}\ngrid: {{n_train: {list(range(1, 1_002))}}}",
        "200,200 runs, more than 100,000",
    ),
    (GRID + f"exclude: [{'{task: similarity, method: mixout}, ' * 101}]", "at most 100"),
    (GRID + "scales: {" + ", ".join(f"s{i}: {{}}" for i in range(21)) + "}", "at most 20"),
]

NO_YAML = [
    ("base: {n_train: !!int x}\n" + GRID, "the tag 'tag:yaml.org,2002:int' is not read"),
    ("base: {n_train: !!str 5}\n" + GRID, "the tag 'tag:yaml.org,2002:str' is not read"),
    ("base: !!python/object/apply:os.system [true]\n" + GRID, "is not read, leave it out"),
    ("base: {task: !!binary aGVsbG8=}\n" + GRID, "is not read"),
    ("base: !!set {epochs}\n" + GRID, "is not read"),
    ("base: !mine {epochs: 3}\n" + GRID, "the tag '!mine' is not read"),
    ("%TAG ! tag:x,2000:\n---\nbase: !y {epochs: 3}", "is not read"),
    ("base: {n_train: 2024-01-31}\n" + GRID, "n_train to be an integer or None, not '2024-01-31'"),
    ("base: {seeds: [2024-01-31]}\n" + GRID, "seeds to be a list of integers"),
    ("base: {task: 2024-01-31 10:00:00}\n" + "grid: {epochs: [1]}", "There is no task '2024-01-31 10:00:00'"),
    ("grid: {task: [entailment}", "not valid YAML"),
    ("grid: {task: [entailment]}\n---\ngrid: {}", "not valid YAML"),
    ("grid: {task: ['entailment]}", "not valid YAML"),
    ("grid:\n\ttask: [entailment]", "not valid YAML"),
    ("grid: {task: [entail\x00ment]}", "not valid YAML"),
    ("", "not a sweep plan"),
    ("# nothing", "not a sweep plan"),
    ("~", "not a sweep plan"),
    ("5", "not a sweep plan"),
    ("entailment", "not a sweep plan"),
    ("[grid]", "not a sweep plan"),
]

NO_PLAN = [
    ("base: {epochs: 3}", "not a sweep plan"),
    ("grid:", "not a sweep plan"),
    ("grid: {}", "not a sweep plan"),
    (GRID + "seeds: [0]", "not a sweep plan"),
    (GRID + "Base: {epochs: 3}", "not a sweep plan"),
    (GRID + "excludes: [{task: similarity}]", "not a sweep plan"),
    ("grid: 0", "grid to be a mapping"),
    ("grid: false", "grid to be a mapping"),
    ("grid: ''", "grid to be a mapping"),
    ("base: 0\n" + GRID, "base to be a mapping"),
    ("base: []\n" + GRID, "base to be a mapping"),
    ("base: false\n" + GRID, "base to be a mapping"),
    (GRID + "by_task: []", "by_task to be a mapping"),
    (GRID + "by_task: {similarity: []}", "needs similarity to be a mapping"),
    (GRID + "by_task: {similarity: 0}", "needs similarity to be a mapping"),
    (GRID + "exclude: {}", "exclude to be a list"),
    (GRID + "exclude: 0", "exclude to be a list"),
    (GRID + "exclude: similarity", "exclude to be a list"),
    (GRID + "exclude: [[]]", "mappings like"),
    (GRID + "exclude: [{}]", "mappings like"),
    (GRID + "exclude: [null]", "mappings like"),
    (GRID + "exclude: [{epochs: 3}]", "There is no parameter in the grid to exclude 'epochs'"),
    (GRID + "exclude: [{task: [similarity]}]", "There is no task in the grid to exclude"),
    (GRID + "exclude: [{task: similarity, method: smart}]", "There is no method in the grid to exclude 'smart'"),
    (GRID + "exclude: [{method: {mixout: {}}}]", "There is no method in the grid to exclude"),
    (GRID + "scales: []", "scales to be a mapping"),
    (GRID + "scales: {}", "scales to be a mapping"),
    (GRID + "scales: 0", "scales to be a mapping"),
    (GRID + "scales: {small: []}", "scale 'small' to be a mapping"),
    (GRID + "scales: {small: {published: []}}", "scale 'small' to be a mapping"),
    (GRID + "scales: {../../up: {}}", "names of letters, digits, dots and dashes"),
    (GRID + "scales: {'a/b': {}}", "names of letters, digits, dots and dashes"),
    (GRID + "scales: {'': {}}", "names of letters, digits, dots and dashes"),
    (GRID + "scales: {'1': {}}", "choose one with --scale"),
    (GRID + "published: 0", "published to be a list"),
    (GRID + "published: [vanilla]", "published to be a list"),
    (GRID + "published: [{method: vanilla}]", "published to be a list"),
    (GRID + "published: [{method: vanilla, rows: [a]}]", "a method and the beginning of a key"),
    (GRID + "published: [{method: [vanilla], rows: a}]", "a method and the beginning of a key"),
    (GRID + "published: [{method: {vanilla: {}, mixout: {}}, rows: a}]", "A method is a name"),
    (GRID + "published: [{method: vanilla, rows: a, tusk: similarity}]", "which no grid of the plan has"),
    (GRID + "published: [{method: vanilla, rows: a}]", "There is no published figure"),
]

IGNORED = [
    (GRID + "by_task: {similarity: {task: [entailment]}}", "sets the task in by_task of similarity"),
    ("base: {task: similarity}\ngrid: {epochs: [1]}\nby_task: {similarity: {task: entailment}}", "sets the task"),
    (GRID + "by_task: {paraphrase: {epochs: 3}}", "There is no task in the grid to set parameters for 'paraphrase'"),
    (GRID + "by_task: {similarity: {output_dir: elsewhere}}", "leave output_dir out"),
    ("base: {output_dir: elsewhere}\n" + GRID, "leave output_dir out"),
    ("grid: {output_dir: [a, b]}", "leave output_dir out"),
    ("base: {_epochs: 3}\n" + GRID, "There is no notebook parameter '_epochs'"),
    ("base: {In: 3}\n" + GRID, "There is no notebook parameter 'In'"),
    ("base: {seed: 3}\n" + GRID, "did you mean 'seeds'"),
    ("base: {seed_init: 3}\n" + GRID, "There is no notebook parameter 'seed_init'"),
    ("base: {Epochs: 3}\n" + GRID, "did you mean 'epochs'"),
    ("base: {'epochs ': 3}\n" + GRID, "did you mean 'epochs'"),
    (
        "base: {method_hyperparameters: {mix_probability: 0.5}}\ngrid: {method: [{mixout: {}}]}",
        "leave method_hyperparameters out",
    ),
    ("base: {method: {mixout: {}}}\ngrid: {method_hyperparameters: [{mix_probability: 0.5}]}", "hyperparameters out"),
    (GRID + "by_task: {similarity: {method: [mixout]}}\nexclude: [{task: similarity, method: vanilla}]", "no point"),
    ("grid: {task: [entailment, entailment]}", "'entailment' twice in the list of 'task'"),
    ("grid: {method: [mixout, {mixout: {}}, mixout]}", "'mixout' twice in the list of 'method'"),
    ("grid: {method: [mixout, {mixout: {mix_probability: 0.7}}]}", "which are the same: leave one of them out"),
    ("grid: {method: [vanilla, {vanilla:}]}", "which are the same"),
    ("grid: {seeds: [[0, 1], [1, 2]]}", "which are the same"),
    ("grid: {learning_rate: [1, 1.0]}", "which are the same"),
    ("base: {n_train: 200}\ngrid: {seeds: [[0], [0, 1]]}", "which are the same"),
    (GRID + "by_task: {similarity: {method: []}}", "a list of values for 'method' in by_task of similarity"),
]

VALUES = [
    ("grid: {task: entailment}", "a list of values for 'task'"),
    ("grid: {task: []}", "a list of values for 'task'"),
    ("grid: {task: {entailment: 1}}", "a list of values for 'task'"),
    ("grid: {task: [entailmnt]}", "did you mean 'entailment'"),
    ("grid: {task: [[entailment]]}", "the names of tasks"),
    ("grid: {task: [{entailment: 1}]}", "the names of tasks"),
    ("grid: {task: [null]}", "the names of tasks"),
    ("grid: {task: [5]}", "the names of tasks"),
    ("grid: {task: ['']}", "There is no task ''"),
    ("grid: {task: ['[/bold]']}", "There is no task '[/bold]'"),
    ("grid: {method: [mixot]}", "did you mean 'mixout'"),
    ("grid: {method: [[vanilla]]}", "method to be a string"),
    ("grid: {method: [null]}", "method to be a string"),
    ("grid: {method: [{}]}", "one name with its hyperparameters"),
    ("grid: {method: [{mixout: {}, vanilla: {}}]}", "one name with its hyperparameters"),
    ("grid: {method: [{mixout: 0}]}", "method_hyperparameters to be a mapping"),
    ("grid: {method: [{mixout: [0.5]}]}", "method_hyperparameters to be a mapping"),
    ("grid: {method: [{mixout: false}]}", "method_hyperparameters to be a mapping"),
    ("grid: {method: [{mixout: {mix_probabilty: 0.5}}]}", "did you mean 'mix_probability'"),
    ("grid: {method: [{mixout: {mix_probability: 1.5}}]}", "in [0, 1], not 1.5"),
    ("grid: {method: [{mixout: {mix_probability: .nan}}]}", "in [0, 1], not nan"),
    ("grid: {method: [{mixout: {mix_probability: '0.5'}}]}", "mix_probability to be a number"),
    ("grid: {method: [{combination: {}}]}", "needs members"),
    ("grid: {method: [{combination: {members: vanilla}}]}", "members"),
    ("grid: {method: [{combination: {members: [{}]}}]}", "needs its method"),
    ("grid: {method: [{combination: {members: [{method: mixot}]}}]}", "did you mean 'mixout'"),
    ("grid: {method: [{combination: {members: [{name: mixout}]}}]}", "needs its method"),
    ("grid: {method: [{combination: {members: [{method: [mixout]}]}}]}", "There is no method ['mixout']"),
    ("base: {seeds: 3}\n" + GRID, "seeds to be a list of integers"),
    ("base: {seeds: []}\n" + GRID, "at least one"),
    ("base: {seeds: [1, 1]}\n" + GRID, "different integers"),
    ("base: {seeds: [1.0]}\n" + GRID, "a list of integers"),
    ("base: {seeds: [true]}\n" + GRID, "a list of integers"),
    ("base: {epochs: 0}\n" + GRID, "epochs"),
    ("base: {epochs: -3}\n" + GRID, "epochs"),
    ("base: {epochs: 3.5}\n" + GRID, "epochs to be an integer"),
    ("base: {epochs: '3'}\n" + GRID, "epochs to be an integer"),
    ("base: {epochs: true}\n" + GRID, "epochs to be an integer"),
    ("base: {batch_size: 0}\n" + GRID, "batch_size"),
    ("base: {max_length: 0}\n" + GRID, "max_length"),
    ("base: {evaluate_every: 0}\n" + GRID, "evaluate_every"),
    ("base: {learning_rate: 0}\n" + GRID, "learning_rate"),
    ("base: {learning_rate: -1e-3}\n" + GRID, "learning_rate"),
    ("base: {learning_rate: fast}\n" + GRID, "learning_rate to be a number"),
    ("base: {warmup_fraction: 1.5}\n" + GRID, "warmup_fraction"),
    ("base: {warmup_fraction: -0.1}\n" + GRID, "warmup_fraction"),
    ("base: {max_grad_norm: 0}\n" + GRID, "max_grad_norm"),
    ("base: {precision: float16}\n" + GRID, "'float32' or 'bfloat16'"),
    ("base: {split: dev}\n" + GRID, "'official' or 'development'"),
    ("base: {bias_correction: 1}\n" + GRID, "true or false"),
    ("base: {pretrained: 'no'}\n" + GRID, "true or false"),
    ("base: {evaluate_on: similarity}\n" + GRID, "evaluate_on to be a list"),
    ("base: {evaluate_on: [similarity]}\n" + GRID, "cannot be scored on"),
    ("base: {evaluate_on: [entailmnt]}\n" + GRID, "did you mean 'entailment'"),
    ("base: {n_train: 2001}\n" + GRID, "n_train must be between 1 and 2000"),
    ("base: {source: nosuch}\ngrid: {task: [rte]}", "There is no folder nosuch"),
    ("base: {source: /dev/null}\ngrid: {task: [rte]}", "There is no folder"),
    ("base: {source: Pocket}\n" + GRID, "does not come from source 'Pocket'"),
    ("base: {source: hub}\n" + GRID, "does not come from source 'hub'"),
    ("grid: {task: [rte]}", "does not come from source 'pocket'"),
    ("base: {source: 5}\n" + GRID, "source to be a string"),
]

BAD_PLANS = [*TWO_MEANINGS, *WITHOUT_END, *NO_YAML, *NO_PLAN, *IGNORED, *VALUES]


@pytest.mark.parametrize(("text", "sentence"), BAD_PLANS, ids=lambda value: repr(value[:40]))
def test_a_bad_plan_is_refused_in_a_sentence(tmp_path, text, sentence):
    plan = tmp_path / "plan.yaml"
    plan.write_text(text, encoding="utf-8")
    begun = time.process_time()
    with pytest.raises(InputError) as refusal:
        read_plan(plan)
    assert time.process_time() - begun < 2
    assert sentence in str(refusal.value)
    assert len(str(refusal.value)) < 1_000
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"grid: {task: [entailment]}\n# caf\xe9", "not text in UTF-8"),
        (b"\xff\xfe" + "grid: {task: [entailment]}".encode("utf-16-le"), "not text in UTF-8"),
        (bytes(range(256)), "not text in UTF-8"),
    ],
)
def test_a_plan_in_another_encoding_is_refused(tmp_path, content, sentence):
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_plan(plan)


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_bytes("\ufeffbase: {epochs: 3}\r\ngrid:\r\n  task: [entailment, similarity]\r\n".encode())
    assert [run.settings[0].epochs for run in read_plan(plan)] == [3, 3]


def test_what_yaml_means_in_every_version_is_read():
    text = "{a: 10, b: -3, c: +4, d: 0, e: '010', f: 2e-5, g: .inf, h: null, i: true, j: 2024-01-31, k: &k [1], l: *k}"
    assert parse_yaml(text) == {
        "a": 10, "b": -3, "c": 4, "d": 0, "e": "010", "f": 2e-5, "g": float("inf"), "h": None, "i": True,
        "j": "2024-01-31", "k": [1], "l": [1],
    }  # fmt: skip
    merged = parse_yaml("a: &a {<<: &b {x: 1, y: 1}, x: 2}\nc: *b\nd: {<<: *a, x: 3}")
    assert merged == {"a": {"x": 2, "y": 1}, "c": {"x": 1, "y": 1}, "d": {"x": 3, "y": 1}}


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"output_dir": "elsewhere"}, "give --output-dir"),
        ({"_epochs": 3}, "There is no notebook parameter '_epochs'"),
        ({"epochs": 10**5_000}, "epochs"),
        ({"learning_rate": 10**400}, "learning_rate"),
        ({"task": "x" * 10_000}, "There is no task"),
        ({"task": ["entailment"]}, "task to be a string"),
        ({"method_hyperparameters": {1: 2}}, "method_hyperparameters to be a mapping"),
        ({"seeds": (0, 1)}, "a list of integers"),
    ],
)
def test_parameters_of_a_notebook_are_refused_in_a_sentence(parameters, sentence):
    with pytest.raises(InputError) as refusal:
        NotebookRun(parameters)
    assert sentence in str(refusal.value)
    assert len(str(refusal.value)) < 1_000
