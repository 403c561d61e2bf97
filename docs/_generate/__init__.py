"""The generated part of the site, a Sphinx extension.

links.py         links between files of the repository -> links of the site
docstrings.py    docstrings -> reStructuredText
notebooks.py     the notebooks as committed
mathematics.py   MathJax out of its package
api_pages.py     a page for each room of the package
method_pages.py  a page for each method
paper_pages.py   a page for each paper
recorded.py      our recorded runs and their verdicts
published.py     published figures
markdown.py      tables, escaped text
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from _generate.api_pages import api_pages
from _generate.docstrings import process_docstring
from _generate.links import rewrite_links
from _generate.mathematics import copy_mathjax
from _generate.method_pages import method_pages
from _generate.notebooks import copy_notebooks
from _generate.paper_pages import paper_pages

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def write_pages(app: Sphinx) -> None:
    """Write the generated sources into docs/, where git ignores them; an equal file is left as it is."""
    source = Path(app.srcdir)
    copy_notebooks(source / "notebooks")
    for folder, pages in {"api": api_pages(), "methods": method_pages(), "papers": paper_pages()}.items():
        (source / folder).mkdir(exist_ok=True)
        for stale in set(source.glob(f"{folder}/*.md")) - {source / folder / f"{name}.md" for name in pages}:
            stale.unlink()
        for name, text in pages.items():
            path = source / folder / f"{name}.md"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the parts to Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("builder-inited", copy_mathjax)
    app.connect("source-read", rewrite_links)
    app.connect("autodoc-process-docstring", process_docstring, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
