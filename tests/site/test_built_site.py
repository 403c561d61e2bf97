"""The built site, as a reader meets it: in Chromium, without a network."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from finetune_reg.methods import METHODS
from finetune_reg.paths import ROOT
from finetune_reg.results.claims import load_claims

browser = pytest.importorskip("browser", reason="websocket-client is not installed: pip install websocket-client")
pytestmark = [pytest.mark.campaign, pytest.mark.xdist_group("site")]
LESSON = "notebooks/04_mixout.html"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built once; warnings are errors."""
    folder = tmp_path_factory.mktemp("built") / "html"
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "--jobs", "2"]
    finished = subprocess.run([*command, "docs", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def page(address, tmp_path_factory):
    if browser.CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with browser.open_page(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(address)
        yield opened


def test_each_method_and_each_paper_has_a_page(site):
    written = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    wanted = {f"methods/{name}" for name in METHODS} | {f"papers/{claim.paper}" for claim in load_claims()}
    wanted |= {"which_method", "traps", "glossary", "experiments", "api/index", "notebooks/14_results"}
    assert wanted <= written


def test_nothing_that_a_page_needs_lies_elsewhere(site):
    needed = (
        r'<(?:script|img|iframe|source)[^>]*\bsrc="(https?:)?//[^"]*|<link[^>]*stylesheet[^>]*href="(https?:)?//[^"]*'
    )
    for path in site.rglob("*.html"):
        assert not re.search(needed, path.read_text(encoding="utf-8")), path


def test_lessons_have_launch_buttons(site):
    text = (site / LESSON).read_text(encoding="utf-8")
    repository = r"finetune-reg/finetune_reg"
    assert f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/04_mixout.ipynb" in text
    assert re.search(rf"https://mybinder\.org/v2/gh/{repository}/main\?[^\"]*notebooks/04_mixout\.ipynb", text)


def test_search_finds_a_word_of_the_mathematics(page, address):
    page.open(f"{address}search.html?q=bregman")
    page.wait_for("document.querySelectorAll('ul.search li a').length > 0")
    assert "smart" in page.evaluate("[...document.querySelectorAll('ul.search a')].map(a => a.href).join()")


def test_formulas_are_drawn(page, address):
    page.open(address + LESSON)
    page.wait_for("document.querySelectorAll('mjx-container svg').length > 3")
    assert page.evaluate("document.querySelectorAll('[data-mjx-error], mjx-merror').length") == 0


def test_a_dark_screen_gets_dark_pages(page, address):
    light, dark = (
        page.evaluate(f"matchMedia('(prefers-color-scheme: {scheme})').matches && {background}")
        for scheme, background in shown_in(page, address)
    )
    assert sum(light) > 3 * 200 > 3 * 80 > sum(dark)


def shown_in(page, address):
    """Show the first page on a light and on a dark screen; yield an expression of the colour of its background."""
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.open(address + "traps.html")
        yield scheme, "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"


def test_no_page_is_wider_than_a_telephone_or_asks_for_a_file_elsewhere(page, address, site):
    page.set_width(400)
    too_wide = {}
    for path in sorted({*site.glob("*.html"), *site.glob("[!_]*/*.html")}):
        name = path.relative_to(site).as_posix()
        page.open(address + name)
        if (width := page.evaluate("document.documentElement.scrollWidth")) > 400:
            too_wide[name] = width
    assert too_wide == {}
    assert [url for url in page.requests if not url.startswith((address, "data:", "blob:", "about:"))] == []
