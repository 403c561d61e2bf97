"""Sphinx configuration: `make site` builds the site from docs/, the notebooks as committed, and the package."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
METADATA = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = METADATA["name"]
author = copyright = "The finetune_reg developers"
version = release = METADATA["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "_generate"]
exclude_patterns = ["_*/**"]

# Notebooks stand as they were executed. Widgets are shown by the picture of their output.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings are light Markdown: `_generate.docstrings` makes reStructuredText of them.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Returns", "as written"), ("Yields", "as written")]
add_module_names = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

# Nothing is fetched while reading. `_generate.mathematics` copies MathJax out of its package.
mathjax_path = "tex-svg.js"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme = "sphinx_book_theme"
html_title = project
html_show_sourcelink = False
html_use_index = False
html_copy_source = False
html_theme_options = {
    "repository_url": METADATA["urls"]["Repository"],
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "launch_buttons": {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"},
    "search_as_you_type": True,
    "navbar_persistent": [],  # the search stands in the sidebar
    "show_navbar_depth": 1,
    "show_toc_level": 2,
}
