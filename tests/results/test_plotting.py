from __future__ import annotations

from base64 import b64decode
from io import BytesIO

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from finetune_reg.results.plotting import method_palette, plot_scores, score_ranges, show


@pytest.fixture
def displayed(monkeypatch):
    """Collect what is displayed: (data, metadata)."""
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, metadata, raw: shown.append((data, metadata)))
    return shown


def test_show_displays_one_picture_with_its_text_as_html_and_as_png(displayed):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.imshow(np.arange(400).reshape(20, 20), cmap="viridis")
    show(figure, alt='Map: "dark" < light & so on')
    ((data, metadata),) = displayed
    assert metadata["image/png"]["alt"] == 'Map: "dark" < light & so on'
    assert data["text/plain"] == 'Map: "dark" < light & so on'
    assert 'alt="Map: &quot;dark&quot; &lt; light &amp; so on"' in data["text/html"]
    assert f'src="data:image/png;base64,{data["image/png"]}"' in data["text/html"]
    assert not plt.fignum_exists(figure.number)


def test_show_keeps_the_colours_that_the_figure_was_drawn_in(displayed):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.imshow(np.arange(400).reshape(20, 20), cmap="viridis")
    drawn = BytesIO()
    figure.savefig(drawn, dpi=figure.dpi, bbox_inches="tight")
    show(figure, alt="Map")
    png = b64decode(displayed[0][0]["image/png"])
    reduced = Image.open(BytesIO(png))
    exact = Image.open(drawn)
    assert reduced.size == exact.size
    difference = np.abs(np.asarray(reduced.convert("RGB"), float) - np.asarray(exact.convert("RGB"), float))
    assert difference.max() <= 16
    assert len(png) < 0.7 * len(drawn.getvalue())


def test_show_makes_a_smaller_picture_of_fewer_colours(displayed):
    for colours in (256, 8):
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.imshow(np.arange(400).reshape(20, 20), cmap="viridis")
        show(figure, alt="Map", colours=colours)
    many, few = (b64decode(data["image/png"]) for data, _ in displayed)
    assert len(Image.open(BytesIO(few)).convert("RGB").getcolors()) <= 8
    assert len(few) < len(many)


def test_a_sharper_picture_is_no_larger_on_the_page(displayed):
    for dpi in (80, 130):
        show(plt.figure(figsize=(4, 1), dpi=dpi), alt="Nothing")
    widths = [metadata["image/png"]["width"] for _, metadata in displayed]
    pixels = [Image.open(BytesIO(b64decode(data["image/png"]))).width for data, _ in displayed]
    assert pixels[1] / pixels[0] == pytest.approx(130 / 80, abs=0.05)
    assert widths[0] == pixels[0] == pytest.approx(widths[1], abs=2)
    assert all(f'width="{width}"' in data["text/html"] for width, (data, _) in zip(widths, displayed, strict=True))


def test_score_ranges_name_the_ends_of_every_method_by_task_and_leave_out_runs_without_a_score():
    table = pd.DataFrame(
        {
            "task": ["rte", "rte", "rte", "stsb"],
            "method_label": ["Vanilla()", "Vanilla()", "Mixout(0.7)", "Vanilla()"],
            "score": pd.array([0.5, 0.75, 0.625, None], dtype="Float64"),
            "majority_score": [0.527, 0.527, 0.527, 0.0],
        }
    )
    assert score_ranges(table) == (
        "rte: Vanilla() 0.50 to 0.75, Mixout(0.7) 0.62 to 0.62; best constant answer 0.53. "
        "stsb: no score; best constant answer 0.00."
    )


@pytest.mark.parametrize("n", [0, 1, 4, 5], ids="{} scores".format)
def test_every_score_is_a_point_and_five_have_a_box(n):
    rows = [{"method_label": label, "score": 0.6 + 0.01 * i} for label in ("Vanilla()", "Mixout()") for i in range(n)]
    rows.append({"method_label": "Mixout()", "score": None})
    table = pd.DataFrame(rows).assign(task="rte", metric="accuracy", majority_score=0.5)
    figure, axes = plt.subplots()
    plot_scores(table, axes, method_palette(["Vanilla()", "Mixout()"]))
    (points,) = axes.collections
    assert points.get_offsets()[:, 0].tolist() == table.score.dropna().tolist()
    assert np.round(points.get_offsets()[:, 1]).tolist() == [0.0] * n + [1.0] * n
    assert len(axes.patches) == 2 * (n >= 5)
    plt.close(figure)
