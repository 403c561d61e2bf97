"""The form of our pages: one file that needs no other and no network; `layout.html.jinja` is its frame."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from finetune_reg.results import plotting

CSS_PIXELS_PER_INCH = 96


@dataclass
class PageFigure:
    """A figure as the page shows it: the PNG in base64, its text for those who cannot see it, its width in pixels."""

    data: str
    alt: str
    caption: str
    width: int


def page_figure(figure: Figure, path: Path, alt: str, caption: str) -> PageFigure:
    """Save a figure as PNG at `path`, close it, and return it for a page."""
    width = round(CSS_PIXELS_PER_INCH * figure.get_figwidth())
    data = base64.b64encode(plotting.save(figure, path).read_bytes()).decode()
    return PageFigure(data, alt, caption, width)


def render(template: Path, **values: Any) -> str:
    """Fill in a template that extends `layout.html.jinja`."""
    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(template.name).render(**values)
