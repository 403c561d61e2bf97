"""The page on one's own rows lists the options that the commands have, and no others."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

from finetune_reg.cli import app
from finetune_reg.paths import ROOT

PAGE = (ROOT / "docs" / "your_own_rows.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["compare", "predict"])
def test_the_page_lists_the_options_of_the_command_and_their_defaults(name):
    options = {
        option.opts[0]: option.default
        for option in get_command(app).commands[name].params
        if option.opts[0].startswith("--") and option.opts[0] != "--help"
    }
    part = PAGE.split(f"`finetune-reg {name} ")[1].split("\n\n`finetune-reg")[0].split("\n## ")[0]
    listed = dict(re.findall(r"^\| `(--[\w-]+)` \| (.*) \|$", part, re.MULTILINE))
    assert list(listed) == list(options)
    for option, default in options.items():
        if isinstance(default, str):
            assert f"`{default}" in listed[option]
