"""What the site is made of, without building it: docstrings, links, the addresses of the launch buttons."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from _generate.docstrings import to_restructured_text
from _generate.links import LINK, rewrite_links
from _generate.markdown import code, plain, table
from _generate.paper_pages import papers_of

from finetune_reg.hyperparameters.paper_card import paper_card
from finetune_reg.methods import METHODS
from finetune_reg.paths import NOTEBOOKS, ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
URL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


class App:
    """As much of Sphinx as `rewrite_links` asks for."""

    class config:
        html_theme_options = {"repository_url": URL}  # noqa: RUF012


def rewritten(docname: str, text: str) -> str:
    content = [text]
    rewrite_links(App, docname, content)
    return content[0]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("the norm |W|, `a * b_`, names_ and **bold**", r"the norm \|W\|, ``a * b_``, names\_ and **bold**"),
        ("Mixes:\n\n    U + b (W - U)|x|\n\nand more", "Mixes:\n\n::\n\n    U + b (W - U)|x|\n\nand more"),
        (
            "Args:\n    *args, **kwargs: all.\n\n    name: a `b\n        c`.",
            "Args:\n    *args, \\*\\*kwargs: all.\n\n    name: a ``b\n        c``.",
        ),
    ],
)
def test_docstrings_become_restructured_text(written, expected):
    text = "\n".join(to_restructured_text(written.split("\n")))
    assert text == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_pages_lead_to_files(page):
    assert page.read_text().startswith("# ")
    for target, _ in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_every_page_stands_in_the_sidebar():
    index = (ROOT / "docs" / "index.md").read_text()
    listed = set(re.findall(r"^[\w/*]+$", index.split("```{toctree}", 1)[1], flags=re.M))
    assert {page.stem for page in PAGES} - listed == {"index"}


def test_a_table_escapes_its_texts_and_drops_empty_columns():
    row = [plain("a_b | [x]*"), "", code("p|q"), "1"]
    assert table(["text", "none", "code", "n"], [row], 3).splitlines() == [
        "| text | code | n |",
        "| :-- | :-- | --: |",
        r"| a\_b \| \[x\]\* | `p\|q` | 1 |",
    ]


def test_a_paper_is_found_in_the_references_of_its_methods():
    assert set(papers_of(paper_card(METHODS["mixout"]).reference)) == {"lee2020mixout"}
    assert set(papers_of(paper_card(METHODS["child_tuning_f"]).reference)) == {"xu2021childtuning"}
    assert set(papers_of(paper_card(METHODS["pretrained_weight_decay"]).reference)) == {"zhang2021fewsample"}
    assert set(papers_of(paper_card(METHODS["vanilla"]).reference)) == set()


def test_a_link_stays_in_the_site_or_leads_to_the_repository():
    lesson = next(NOTEBOOKS.glob("04_*.ipynb")).name
    assert rewritten("traps", f"[a](../notebooks/{lesson}#idea)") == f"[a](notebooks/{lesson}#idea)"
    assert rewritten("methods/mixout", f"[a](../../notebooks/{lesson})") == f"[a](../notebooks/{lesson})"
    assert rewritten("notebooks/x", "[a](../docs/traps.md)") == "[a](../traps.md)"
    assert rewritten("notebooks/x", "[a](../data/claims.yaml)") == f"[a]({URL}/blob/main/data/claims.yaml)"
    assert rewritten("notebooks/x", "[a](solutions)") == f"[a]({URL}/tree/main/notebooks/solutions)"
    assert rewritten("notebooks/x", "f = METHODS[name](0.9); [b](https://x.org/traps.md)").count("github") == 0


def test_launch_buttons_have_the_form_that_colab_and_binder_read():
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", URL)
    assert not URL.endswith((".git", "/"))


def test_every_change_is_tested_where_it_is_published():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    assert {"pinned", "versions", "notebooks", "site"} == set(jobs)
    assert {entry["versions"] for entry in jobs["versions"]["strategy"]["matrix"]["include"]} == {"oldest", "newest"}
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.M))
    for job in jobs.values():
        for step in job["steps"]:
            if step.get("run", "").startswith("make "):
                assert step["run"].split()[1] in targets
