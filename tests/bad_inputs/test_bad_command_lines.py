"""Command lines that are refused: exit code 2 and one sentence, in which names stand as they were given."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest import mock

import pytest

from finetune_reg.cli import main

LONG = "n" * 300
NOT_A_FOLDER = [
    ("file", "file is a file"),
    ("file/below", "Not a directory"),
    ("loop", "Too many levels of symbolic links"),
    ("loop/below", "Too many levels of symbolic links"),
    (LONG, "File name too long"),
]
NO_RECORDS = [
    "file",
    "file/below",
    "loop",
    "dangling",
    LONG,
    "[/b]",
    "[red]x",
    ":smile:",
    "nosuch",
    "empty",
    "a\x1b[1mb",
]


def refuse(sentence: str, *arguments: str) -> tuple[tuple[str, ...], str]:
    return arguments, sentence


BAD_COMMAND_LINES = [
    refuse("No such command 'nosuch'.", "nosuch"),
    refuse("No such command '[/bold]'.", "[/bold]"),
    refuse("Did you mean 'plan'?", "sweep", "pln"),
    refuse("No such command '[/b]'", "sweep", "[/b]"),
    refuse("No such option", "run", "--nosuch"),
    refuse("unexpected extra argument", "run", "[/b]"),
    refuse("Missing argument", "report"),
    refuse("Missing argument", "sweep", "plan"),
    refuse("Missing option '--slurm-array'", "sweep", "export", "plan.yaml"),
    refuse("There is no method '[/b]'", "methods", "[/b]"),
    refuse("There is no task '[/bold]'", "run", "-p", "task='[/bold]'"),
    refuse("There is no task ':smile:'", "run", "-p", "task=':smile:'"),
    refuse(r"There is no task 'a\nb'", "run", "-p", 'task="a\\nb"'),
    refuse(r"There is no task '\x00'", "run", "-p", 'task="\\0"'),
    refuse("There is no method '[red]x'", "run", "-p", "method='[red]x'"),
    refuse("There is no notebook parameter '[/b]'", "run", "-p", "[/b]=3"),
    refuse("Parameter '[/b]' is not NAME=VALUE", "run", "-p", "[/b]"),
    refuse("Parameter '' is not NAME=VALUE", "run", "-p", ""),
    refuse("There is no notebook parameter ''", "run", "-p", "=3"),
    refuse("There is no notebook parameter '_epochs'", "run", "-p", "_epochs=3"),
    refuse("Parameter 'epochs' is there twice", "run", "-p", "epochs=3", "-p", "epochs=5"),
    refuse("give --output-dir", "run", "-p", "output_dir=elsewhere"),
    refuse("The value of 'epochs', line 1: '010'", "run", "-p", "epochs=010"),
    refuse("The value of 'epochs' is not valid YAML", "run", "-p", "epochs=["),
    refuse("is not the same number", "run", "-p", f"epochs={'9' * 5_000}"),
    refuse("nested deeper", "run", "-p", f"epochs={'[' * 3_000}"),
    refuse("is not read, leave it out", "run", "-p", "epochs=!!int x"),
    refuse("epochs to be an integer, not '2024-01-31'", "run", "-p", "epochs=2024-01-31"),
    refuse("There is no folder nosuch", "run", "-p", "task=rte", "-p", "source=nosuch"),
    refuse("There is no folder [/b]", "run", "-p", "task=rte", "-p", "source='[/b]'"),
    refuse("does not come from source 'pocket'", "run", "-p", "task=rte"),
    refuse("n_train must be between 1 and 2000", "run", "-p", "n_train=2001"),
    refuse("There is no plan 'poket': did you mean 'pocket'?", "sweep", "plan", "poket"),
    refuse("There is no plan '[/b]'", "reproduce", "[/b]"),
    refuse("There is no parameter file [/b].yaml", "sweep", "plan", "[/b].yaml"),
    refuse("There is no parameter file loop.yaml", "sweep", "plan", "loop.yaml"),
    refuse("File name too long", "sweep", "plan", f"{LONG}.yaml"),
    refuse("choose one with --scale", "sweep", "plan", "mixout-table1"),
    refuse("leave out the scale '[/b]'", "sweep", "plan", "pocket", "--scale", "[/b]"),
    refuse("There is no notebook in this plan '[/b]'", "sweep", "run-one", "plan.yaml", "[/b]"),
    refuse("There is no engine or scheduler file '[/b]'", "sweep", "run", "plan.yaml", "--engine", "[/b]"),
    refuse("'--slots'", "sweep", "run", "plan.yaml", "--slots", "0"),
    *(
        refuse("'--time-limit'", "sweep", "export", "plan.yaml", "--slurm-array", "job.sh", "--time-limit", limit)
        for limit in ("inf", "-inf", "nan", "0", "-1", "1e300", "ten", "[/b]")
    ),
    *(refuse("'--time-limit'", "grade", "empty", "--time-limit", limit) for limit in ("inf", "nan", "0")),
    *(refuse("'--memory'", "grade", "empty", "--memory", size) for size in ("inf", "nan", "0", "-1", "1e30")),
    *(
        refuse(sentence, "sweep", "export", "plan.yaml", "--slurm-array", script)
        for script, sentence in (("missing/job.sh", "missing/job.sh"), ("empty", "directory"), (LONG, "too long"))
    ),
    *(
        refuse(sentence, *command, "--output-dir", folder)
        for command in (
            ("run",),
            ("sweep", "plan", "plan.yaml"),
            ("sweep", "run", "plan.yaml"),
            ("sweep", "retry", "plan.yaml"),
            ("sweep", "export", "plan.yaml", "--slurm-array", "job.sh"),
            ("reproduce", "plan.yaml"),
            ("pretrain-pocket", "--updates", "1"),
        )
        for folder, sentence in NOT_A_FOLDER
    ),
    *(
        refuse("", *command, folder)
        for command in (("sweep", "status"), ("report",), ("report", "--checklist"), ("collect",), ("grade",))
        for folder in NO_RECORDS
    ),
    *(refuse("", "select", folder) for folder in NO_RECORDS if folder != "file"),
    *(refuse("", "restore", folder, "--output-dir", "out") for folder in NO_RECORDS if folder != "file"),
    *(
        refuse(sentence, "data", "--source", source)
        for source, sentence in (
            ("nosuch", "There is no folder nosuch"),
            ("[/b]", "There is no folder [/b]"),
            ("file", "There is no folder file"),
            ("loop", "There is no folder loop"),
            ("empty", "empty lacks cola/train.jsonl"),
            ("local", "FINETUNE_REG_GLUE: set it to a folder"),
            (LONG, ""),
        )
    ),
    *(refuse("updates of at least 1", "pretrain-pocket", "--updates", updates) for updates in ("0", "-1")),
    *(refuse("a seed from 0 to 4294967295", "pretrain-pocket", "--seed", seed) for seed in ("-1", str(2**32))),
    refuse("'--updates'", "pretrain-pocket", "--updates", "1.5"),
]


def outcome(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code and both outputs."""
    out, err = StringIO(), StringIO()
    with (
        mock.patch.object(sys, "argv", ["finetune-reg", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return end.value.code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Work in a folder with a file, a folder, a plan, a loop of links and a link to nothing."""
    path, before = tmp_path_factory.mktemp("bad_command_lines"), os.getcwd()
    os.chdir(path)
    (path / "file").write_text("x")
    (path / "empty").mkdir()
    (path / "loop").symlink_to("loop")
    (path / "loop.yaml").symlink_to("loop.yaml")
    (path / "dangling").symlink_to("nowhere")
    (path / "plan.yaml").write_text("grid: {task: [entailment]}")
    with mock.patch.dict(os.environ):
        os.environ.pop("FINETUNE_REG_GLUE", None)
        yield path
    os.chdir(before)


@pytest.mark.parametrize(("arguments", "sentence"), BAD_COMMAND_LINES, ids=lambda value: repr(value)[:60])
def test_a_bad_command_line_is_refused_in_a_sentence(arguments, sentence):
    code, _, err = outcome(*arguments)
    assert code == 2
    assert err.startswith("Error: ")
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert len(err) < 1_500


def test_nothing_was_written_by_what_was_refused(folder):
    left = {path.name for path in folder.iterdir()} - {"runs"}
    assert left == {"file", "empty", "loop", "loop.yaml", "dangling", "plan.yaml"}


@pytest.mark.parametrize("name", ["[/b]", "{a}", "[red]x", ":smile:", "a b", "ü"])
def test_folders_with_unusual_names_are_planned_and_printed_as_they_are(name):
    code, _, err = outcome("sweep", "plan", "plan.yaml", "--output-dir", name)
    assert (code, err) == (0, "")
    script = f"{name}.sh".replace("/", "")
    code, out, _ = outcome("sweep", "export", "plan.yaml", "--slurm-array", script)
    assert (code, f"1 notebooks in {script}" in out) == (0, True)
    os.remove(script)


def test_help_of_every_command_is_not_an_error():
    for arguments in ((), ("sweep",)):
        code, out, err = outcome(*arguments, "--help")
        assert (code, err) == (0, "")
        assert "Usage" in out
        code, out, err = outcome(*arguments)
        assert (code, err) == (2, "")
        assert "Usage" in out
