"""MathJax out of its package, so that formulas are drawn without a network."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def copy_mathjax(app: Sphinx) -> None:
    """Copy the one file that draws TeX as SVG, without fonts, into the site's static folder."""
    target = Path(app.outdir) / "_static" / app.config.mathjax_path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(str(files("mathjax") / "static" / "mathjax" / "es5" / target.name), target)
