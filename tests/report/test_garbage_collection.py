"""A report looks for garbage rarely, and leaves the collector as it was, also after a refusal."""

from __future__ import annotations

import gc

import pytest

from finetune_reg.console import rare_collection
from finetune_reg.errors import InputError


@rare_collection()
def refuse() -> None:
    raise InputError(f"It looks for garbage each {gc.get_threshold()[0]} objects.")


def test_the_collector_is_as_before_after_a_refusal():
    before = gc.get_threshold()
    with pytest.raises(InputError, match="each 1000000 objects"):
        refuse()
    assert gc.get_threshold() == before
