"""Grading: submissions in processes of their own, honest ones and others, each of which costs its own row at most."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from command_line import call

from finetune_reg.course.grading import grade
from finetune_reg.course.grading.points import cell
from finetune_reg.course.grading.remote_attempts import NO_MESSAGE
from finetune_reg.course.grading.sandbox import describe_isolation, isolation
from finetune_reg.errors import InputError

pytestmark = pytest.mark.xdist_group("grading")

EXERCISES = ["best-of-k-without-replacement", "sign-flip-test", "fewest-pairs"]
BEST_OF_K = """
from math import comb

def best_of_k(scores, k):
    return sum(score * comb(i, k - 1) for i, score in enumerate(sorted(scores))) / comb(len(scores), k)
"""
SIGN_FLIP = """
from itertools import product

def sign_flip(differences):
    signs = list(product((-1, 1), repeat=len(differences)))
    sums = [sum(s * d for s, d in zip(row, differences)) for row in signs]
    return sum(abs(one) >= abs(sum(differences)) for one in sums) / len(sums)
"""
STUB = "\ndef {name}(*arguments):\n    raise NotImplementedError\n"
CHECKS = [
    'check("best-of-k-without-replacement", best_of_k, strict_exercises)',
    'check("sign-flip-test", sign_flip, strict_exercises)',
    'check("fewest-pairs", answer, strict_exercises)',
]
SLEEP = "86399.25"  # seconds; a process with this argument is one that a submission left behind

MAGICS = """%%time
%matplotlib inline
!true
"""
HIDES = """
kept = []

def keep():
    kept.append(6)

done = keep()  # that the answer needs this, only its absence shows
"""
PATCHES = """
def patched(attempt):
    import math
    import numpy as np
    from finetune_reg.course import exercises
    from finetune_reg.course.exercises import instability

    math.isclose = np.isclose = lambda *arguments, **named: True
    exercises.judge = lambda checker, attempt: ""
    for name in instability.EXERCISES:
        instability.EXERCISES[name] = lambda attempt: None
        print(f"{name}: right.")
    return attempt

class Always(float):
    __eq__ = __gt__ = __lt__ = __ge__ = __le__ = lambda self, other: True
    __hash__ = float.__hash__
    __sub__ = __rsub__ = lambda self, other: self
"""
WRITES = """
def best_of_k(scores, k):
    import gc, json
    from multiprocessing.connection import Connection
    for connection in (one for one in gc.get_objects() if isinstance(one, Connection)):
        for name in ("best-of-k-without-replacement", "sign-flip-test", "fewest-pairs"):
            connection.send_bytes(json.dumps({"exercise": name, "verdict": "", "right": 1000}).encode())
    raise SystemExit
"""
LOOKS = f"""
def look():
    import os, socket
    from pathlib import Path
    import finetune_reg
    from finetune_reg.paths import output_folder

    found = []
    for attempt in (
        lambda: Path(finetune_reg.__file__).with_name("evil.py").write_text(""),
        lambda: (Path.home() / "evil.txt").write_text(""),
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: os.kill({os.getpid()}, 0),
        lambda: next((Path(finetune_reg.__file__).parents[1] / "notebooks" / "solutions").iterdir()),
        lambda: Path("own.txt").write_text(""),
        lambda: output_folder("runs/own.txt").write_text(""),
    ):
        try:
            attempt()
        except (OSError, StopIteration) as error:
            found.append(type(error).__name__)
        else:
            found.append("done")
    raise RuntimeError(" ".join(found))
"""
LEAVES = f"""
def leave(after=lambda: None):
    import subprocess
    subprocess.Popen(["sh", "-c", "setsid sleep {SLEEP} & setsid sleep {SLEEP} &"], start_new_session=True)
    after()
    while True:
        print("again " * 100_000)
"""


def submission(path: Path, *attempts: str, before: str = "") -> None:
    """Write notebook 02's exercises as a student hands them in: filled in, not executed, with the strict switch on."""
    sources = ["strict_exercises = True  # True: an unsolved exercise is an error"]
    sources += ["from finetune_reg.course.exercises import check", before]
    sources += [f"{attempt}\n{line}" for attempt, line in zip(attempts, CHECKS, strict=False)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources if source])
    nbformat.write(notebook, path)


HALF = (BEST_OF_K, STUB.format(name="sign_flip"), "answer = 5")
RIGHT = (BEST_OF_K, SIGN_FLIP, "answer = 6")
CLASS = {
    "{output_dir}.ipynb": {"attempts": RIGHT, "points": [1, 1, 1]},
    "=HYPERLINK(1).ipynb": {"attempts": HALF, "before": MAGICS, "points": [1, 0, 0]},
    "crashes.ipynb": {
        "attempts": ("best_of_k = bytearray(6 * 10**9)", SIGN_FLIP, "answer = 6"),
        "points": [0, 1, 1],
        "error": "MemoryError",
    },
    "hides.ipynb": {"attempts": (*RIGHT[:2], "answer = kept[0]"), "before": HIDES, "points": [1, 1, 1]},
    "deletes.ipynb": {"attempts": (BEST_OF_K,), "points": [1, 0, 0], "changed": ", ".join(EXERCISES[1:])},
    "looks.ipynb": {
        "attempts": (BEST_OF_K, SIGN_FLIP, "answer = look()"),
        "before": LOOKS,
        "points": [1, 1, 0],
        "error": "RuntimeError: OSError OSError OSError ProcessLookupError StopIteration done done",
    },
    "exits.ipynb": {
        "attempts": (BEST_OF_K, SIGN_FLIP, "import os\nanswer = os._exit(0)"),
        "points": [1, 1, 0],
        "error": "Its process ended.",
    },
    "leaves.ipynb": {
        "attempts": (BEST_OF_K, SIGN_FLIP, "answer = leave()"),
        "before": LEAVES,
        "points": [1, 1, 0],
        "error": "It did not end in the 0.15 minutes it was given.",
    },
    "patches.ipynb": {
        "attempts": ("best_of_k = patched(lambda *_: Always(1))", "sign_flip = lambda _: 1.0", "answer = patched(5)"),
        "before": PATCHES,
        "points": [0, 0, 0],
        "changed": ", ".join(EXERCISES),
    },
    "writes.ipynb": {"attempts": (WRITES, SIGN_FLIP, "answer = 5"), "points": [0, 0, 0], "error": NO_MESSAGE},
}


def running(argument: str) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if argument in (one.info["cmdline"] or [])]


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submissions")
    for name, entry in CLASS.items():
        submission(folder / name, *entry["attempts"], before=entry.get("before", ""))
    (folder / "rubbish.ipynb").write_text("not a notebook")
    (folder / "list.ipynb").write_text("[1, 2]")
    (folder / "folder.ipynb").mkdir()
    os.mkfifo(folder / "pipe.ipynb")
    out = folder / "points.csv"
    finished = call("grade", folder, "--out", out, "--time-limit", "0.15")
    assert finished.returncode == 0, finished.stderr
    table = pd.read_csv(out, keep_default_na=False).set_index("submission")
    return folder, table, finished.stdout


@pytest.mark.parametrize("name", CLASS)
def test_points_are_those_of_the_attempts_alone(graded, name):
    if name == "looks.ipynb" and not isolation():
        pytest.skip("nothing keeps processes apart here")
    row = graded[1].loc[f"'{name}" if name.startswith("=") else name]
    entry = CLASS[name]
    assert row[EXERCISES].tolist() == entry["points"]
    assert row.total == sum(entry["points"])
    assert row.error == entry.get("error", "")
    assert row.changed_checks == entry.get("changed", "")


@pytest.mark.parametrize("name", ["rubbish.ipynb", "list.ipynb", "folder.ipynb", "pipe.ipynb"])
def test_what_is_no_notebook_costs_its_own_row(graded, name):
    row = graded[1].loc[name]
    assert row[[*EXERCISES, "total"]].tolist() == [0, 0, 0, 0]
    assert row.error.startswith(("It is no file", "It cannot be read as a notebook"))


def test_the_table_and_the_screen_have_a_row_for_each_submission(graded):
    _, table, screen = graded
    assert len(table) == len(CLASS) + 4
    assert list(table) == [*EXERCISES, "total", "error", "changed_checks"]
    assert screen.startswith(describe_isolation())
    assert "{output_dir}.ipynb" in screen


def test_submissions_are_untouched_and_leave_nothing_running(graded):
    cells = nbformat.read(graded[0] / "crashes.ipynb", as_version=4).cells
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert running(SLEEP) == []


def test_each_student_gets_a_page_with_what_the_checks_said(graded):
    pages = {page.stem: page.read_text() for page in (graded[0] / "points_feedback").iterdir()}
    assert len(pages) == len(CLASS) + 4
    half = pages["=HYPERLINK(1)"]
    assert "* **best-of-k-without-replacement**: right.\n* **sign-flip-test**: not attempted yet.\n" in half
    assert "* **fewest-pairs**: not yet: with 5 pairs the smallest possible p-value is 0.0625" in half
    assert "a line of the rubric is a point:\n\n* 4. Experiment: which seed does it?\n    * [ ] Measured: " in half
    assert "* **fewest-pairs**: its check was not reached.\n" in pages["exits"]


def test_where_nothing_keeps_processes_apart_what_is_left_running_is_ended_too(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "setsid", "sleep"):
        (tools / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tools))
    attempts = (BEST_OF_K, SIGN_FLIP, "import os\nanswer = leave(lambda: os._exit(0))")
    submission(tmp_path / "ada.ipynb", *attempts, before=LEAVES)
    row = grade(tmp_path, tmp_path / "points.csv").iloc[0]
    assert row[EXERCISES].tolist() == [1, 1, 0]
    assert running(SLEEP) == []


def test_folders_without_anything_to_grade_are_refused(tmp_path):
    with pytest.raises(InputError, match="There are no notebooks to grade"):
        grade(tmp_path, tmp_path / "points.csv")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "empty.ipynb")
    with pytest.raises(InputError, match="checks an exercise of the course"):
        grade(tmp_path, tmp_path / "points.csv")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "\\t=1"),
        ("two\r\nlines", "two\\r\\nlines"),
        ("\udcff", "\\udcff"),
        ("x" * 300, "x" * 200 + "..."),
        ("Zoë", "Zoë"),
    ],
)
def test_cells_of_the_table_are_printable_short_and_no_formulas(text, stored):
    assert cell(text) == stored
