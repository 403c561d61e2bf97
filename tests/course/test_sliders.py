"""A figure to play with: the page as executed shows it, a moved slider draws another, and no view of it is stored."""

from __future__ import annotations

import nbformat

from finetune_reg.course.notebook_execution import execute
from finetune_reg.course.sliders import WIDGET, without_widgets

CELL = """
import matplotlib.pyplot as plt
from ipywidgets import Widget
from finetune_reg.course.sliders import play

drawn = []

def draw(value):
    drawn.append(value)
    return plt.figure(figsize=(1, 1)), f"An empty figure of {value}."

play(draw, "p", [0.1, 0.5, 0.9], 0.5)
"""
MOVE = """
(slider,) = [widget for widget in Widget.widgets.values() if hasattr(widget, "continuous_update")]
slider.value = 0.9
print(drawn)
"""


def test_a_figure_is_drawn_at_once_and_again_when_the_slider_moves(tmp_path):
    path = tmp_path / "playing.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL), nbformat.v4.new_code_cell(MOVE)]), path
    )
    execute(path)
    first, moved = nbformat.read(path, as_version=4).cells
    pictures = [output for output in first.outputs if "image/png" in output.data]
    assert [picture.data["text/plain"] for picture in pictures] == ["An empty figure of 0.5."]
    assert "In a running notebook: a slider over p, 0.1 to 0.9" in first.outputs[1].data["text/plain"]
    assert moved.outputs[0].text == "[0.5, 0.9]\n"
    assert not any(WIDGET in output.get("data", {}) for output in first.outputs)


def test_other_outputs_stay_as_they_are():
    data = {"text/plain": "words", "image/png": "picture"}
    assert without_widgets({WIDGET: {}, **data}) == data
