"""A figure to play with: it stands in the page as executed, and a slider draws it anew where a kernel runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from finetune_reg.results.plotting import show

WIDGET = "application/vnd.jupyter.widget-view+json"


def play(draw: Callable[[float], tuple[Figure, str]], name: str, values: Sequence[float], start: float) -> None:
    """Show a figure for one value, and below it a slider over others; the figure of the chosen one appears under it.

    Args:
        draw: maps a value to a figure and what it shows in words, as `show` takes them.
        name: of the value, beside the slider.
        values: to choose from, in order.
        start: one of them, whose figure stays in view.
    """
    from IPython.display import clear_output, display
    from ipywidgets import Output, SelectionSlider, VBox

    show(*draw(start))
    slider = SelectionSlider(
        options=[(f"{value:g}", value) for value in values], value=start, description=name, continuous_update=False
    )
    chosen = Output()

    def redraw(change: Any) -> None:
        with chosen:
            clear_output(wait=True)
            show(*draw(change["new"]))

    slider.observe(redraw, names="value")
    view = VBox([slider, chosen])._repr_mimebundle_()
    words = (
        f"In a running notebook: a slider over {name}, {values[0]:g} to {values[-1]:g}, that draws this figure anew."
    )
    display({WIDGET: view[WIDGET], "text/plain": words}, raw=True)


def without_widgets(data: dict[str, Any]) -> dict[str, Any]:
    """Return an output without the view of a widget, which only the kernel that made it can fill."""
    return {kind: value for kind, value in data.items() if kind != WIDGET}
