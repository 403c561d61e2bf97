"""Links between files of the repository, so that one source reads right there and on the site.

A link to a page or a lesson stays inside the site. A link to any other file leads to the published repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_reg.paths import NOTEBOOKS, ROOT

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def rewrite_links(app: Sphinx, docname: str, content: list[str]) -> None:
    """Rewrite the relative links of a page or a notebook that lead to files of the repository."""
    page = DOCS / docname
    stands_in = NOTEBOOKS if page.parent.name == "notebooks" else page.parent
    repository = app.config.html_theme_options["repository_url"]

    def rewritten(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(stands_in / link[1]))
        if not target.exists() or not target.is_relative_to(ROOT):
            return link[0]
        if target.parent == NOTEBOOKS and target.suffix == ".ipynb":
            target = DOCS / "notebooks" / target.name
        if target.is_relative_to(DOCS):
            return f"]({os.path.relpath(target, page.parent)}{link[2] or ''})"
        kind = "tree" if target.is_dir() else "blob"
        return f"]({repository}/{kind}/main/{target.relative_to(ROOT)}{link[2] or ''})"

    content[0] = LINK.sub(rewritten, content[0])
