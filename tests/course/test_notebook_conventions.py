"""Conventions of the notebooks; that they run is tested by nbval (see the Makefile)."""

from __future__ import annotations

import ast
import re
from collections import Counter
from html import escape
from pathlib import Path

import nbformat
import pytest

from finetune_reg import paths
from finetune_reg.course.dependencies import needed_directly, prerequisites
from finetune_reg.course.exercises import exercises
from finetune_reg.course.grading import checked_exercises
from finetune_reg.course.notebook_execution import course_notebooks, source_hash
from finetune_reg.experiment.notebook_parameters import TEMPLATE_PARAMETERS
from finetune_reg.methods import METHODS


def name_of(path: Path) -> str:
    """`04_mixout`, or `solutions/04_mixout`."""
    return path.relative_to(paths.NOTEBOOKS).with_suffix("").as_posix()


NOTEBOOKS = course_notebooks()
LESSONS = [path for path in NOTEBOOKS if path.parent == paths.NOTEBOOKS]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=name_of)
PARAMETER_NAMES = set(TEMPLATE_PARAMETERS) | {
    "budget",
    "group",
    "label",
    "learning_rates",
    "methods",
    "mix_probability",
    "results_dir",
    "rows",
    "seed",
    "strict_exercises",
    "table",
    "text",
}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {
        "00_start_here",
        "01_the_fine_tuning_loop",
        "02_instability",
        "04_mixout",
        "13_low_resource_glue",
        "14_results",
    }


def test_the_first_notebook_links_every_other_one():
    start = read(paths.NOTEBOOKS / "00_start_here.ipynb")
    linked = re.findall(r"\]\((\w+\.ipynb)\)", "".join(cell.source for cell in start.cells))
    assert set(linked) >= {path.name for path in LESSONS} - {"00_start_here.ipynb"}
    assert all((paths.NOTEBOOKS / name).is_file() for name in linked)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_used_in_a_notebook(name):
    sources = (cell.source for path in LESSONS[1:] for cell in read(path).cells)
    used = re.compile(rf"\b{METHODS[name].__name__}\b|[\"']{name}[\"']")
    assert any(used.search(source) for source in sources)


@every_lesson
def test_every_exercise_of_a_notebook_is_solved_in_the_solutions_notebook_of_the_same_name(path):
    asked = checked_exercises(read(path))
    solutions = path.parent / "solutions" / path.name
    assert solutions.is_file() == bool(asked)
    if asked:
        assert set(asked) <= set(exercises())
        assert asked == checked_exercises(read(solutions))
        printed = "".join(output.get("text", "") for cell in code_cells(solutions) for output in cell.outputs)
        assert [name for name in asked if f"{name}: right.\n" not in printed] == []
        assert "strict_exercises = True" in "".join(cell.source for cell in code_cells(solutions))


@every_notebook
def test_exercises_are_checked_with_the_notebooks_strictness(path):
    for cell in code_cells(path):
        for call in re.findall(r"^\s*(?:\w+ = )?check\(.*\)", cell.source, flags=re.MULTILINE):
            assert re.search(r", (?:strict=)?strict_exercises\)$", call), call


def test_every_exercise_of_the_package_is_in_exactly_one_notebook():
    uses = Counter(name for path in LESSONS for name in checked_exercises(read(path)))
    assert {name: uses[name] for name in exercises() if uses[name] != 1} == {}


@every_notebook
def test_parameters_are_one_cell_of_typed_literals_with_known_names(path):
    (cell,) = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    for line in cell.source.splitlines():
        assert re.fullmatch(r"\w+ = [^=]+  # [^=]+", line), line
        name, value = line.split(" = ", 1)
        ast.literal_eval(value.split("  # ")[0])
        assert name in PARAMETER_NAMES


@every_notebook
def test_outputs_are_fresh_and_clean(path):
    notebook = read(path)
    assert notebook.metadata.get("source_hash") == source_hash(notebook), "run `make notebooks`"
    for cell in code_cells(path):
        assert cell.execution_count
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
            text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            assert "Warning" not in text
            assert "it/s" not in text


@every_lesson
def test_tables_of_recorded_runs_are_compared_with_the_stored_ones(path):
    cells = code_cells(path)
    if any("RESULTS" in cell.source or "data/results" in cell.source for cell in cells):
        assert any("nbval-check-output" in cell.metadata.get("tags", []) for cell in cells)


@every_notebook
def test_cells_have_meaningful_ids_and_at_most_25_lines(path):
    for cell in read(path).cells:
        assert re.fullmatch(r"[a-z][a-z0-9-]+", cell.id)
        assert not re.fullmatch(r"[0-9a-f]{8}", cell.id)
    for cell in code_cells(path):
        is_list = "parameters" in cell.metadata.get("tags", [])  # a line each
        assert len(cell.source.splitlines()) <= (30 if is_list else 25), cell.id


@every_notebook
def test_prose_comes_before_code(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert "Running time" in cells[0].source


@every_notebook
def test_nothing_is_installed_downloaded_or_bound_to_a_machine(path):
    text = path.read_text()
    for forbidden in ("pip install", "!pip", "filterwarnings", "requests.get"):
        assert forbidden not in text, forbidden
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", text)


@every_notebook
def test_files_are_small(path):
    assert path.stat().st_size < 400_000


@every_notebook
def test_every_figure_has_a_text_and_is_described_in_the_next_cell(path):
    cells = read(path).cells
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        for picture in pictures:
            alt = picture.metadata.get("image/png", {}).get("alt", "")
            assert len(alt) >= 40, f"{cell.id}: display the figure with `plotting.show`"
            assert f'alt="{escape(alt)}"' in picture.data["text/html"]
        if pictures:
            assert following is not None
            assert following.cell_type == "markdown", cell.id
            assert following.source.lstrip().startswith("*"), cell.id


MOST_WORDS = {"14_results": 2000}
OTHERS = 2500


@every_lesson
def test_prose_is_as_short_as_a_reader_needs(path):
    prose = [cell for cell in read(path).cells if cell.cell_type == "markdown"]
    assert sum(len(cell.source.split()) for cell in prose) <= MOST_WORDS.get(path.stem, OTHERS)
    for cell in prose:
        sentences = re.sub(r"```.*?```|^[|#][^\n]*$", "", cell.source, flags=re.DOTALL | re.MULTILINE)
        assert len(sentences.split()) <= 200, cell.id
    assert len(prose[0].source.splitlines()) <= 15, "the problem comes soon after the title"


def test_the_map_of_the_course_follows_the_first_cells_of_the_notebooks():
    needs = prerequisites()
    assert set(needs) == {path.stem[:2] for path in LESSONS}
    assert all(before < name for name, needed in needs.items() for before in needed)
    assert needed_directly(needs)["10"] == ["03", "04"]
