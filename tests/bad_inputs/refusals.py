"""What a refusal must be: `InputError`, one sentence that says what is wrong, soon, and nothing written."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_reg.errors import InputError

MOST_SECONDS = 5.0


def assert_refused(call: Callable[[], Any], sentence: str, folder: Path | None = None) -> None:
    """Call, and check the refusal; `sentence` is a part of it, `folder` must stay as it is."""
    before = contents(folder)
    start = time.process_time()
    with pytest.raises(InputError) as refusal:
        call()
    seconds = time.process_time() - start
    message = str(refusal.value)
    assert sentence in message
    assert "\n" not in message
    assert re.search(r"[.!?]\)?$", message), message
    assert len(message) < 1_000
    assert seconds < MOST_SECONDS
    assert contents(folder) == before


def contents(folder: Path | None) -> dict[str, bytes | None]:
    """Return the files below a folder."""
    if folder is None or not folder.exists():
        return {}
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
