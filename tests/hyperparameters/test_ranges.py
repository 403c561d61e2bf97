"""Ranges declared in types: what is refused, in which words, and what is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import Count, DropoutRate, Fraction, Interval, NonNegative, describe_ranges
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import METHODS, build_method


@dataclass
class Example(FineTuningMethod):
    strength: NonNegative = 1.0
    rate: DropoutRate | None = None
    keep_fraction: Fraction = 0.5
    n_layers: Count = 2
    scope: Literal["all", "top"] = "all"


@given(st.floats(allow_subnormal=False))
def test_an_open_end_is_outside_and_a_closed_end_inside(value):
    assert (value in Interval("[0, 1)")) == (0.0 <= value < 1.0)
    assert (value in Interval("(0, 1]")) == (0.0 < value <= 1.0)
    assert (value in Interval("[0, inf)")) == (0.0 <= value < float("inf"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"strength": -1.0}, "Example needs strength in [0, inf), not -1.0."),
        ({"strength": float("nan")}, "Example needs strength in [0, inf), not nan."),
        ({"strength": float("inf")}, "Example needs strength in [0, inf), not inf."),
        ({"strength": "strong"}, "Example needs strength to be a number, not 'strong' (str)."),
        ({"rate": 1}, "Example needs rate in [0, 1), not 1.0."),
        ({"keep_fraction": 0}, "Example needs keep_fraction in (0, 1], not 0.0."),
        ({"n_layers": 0}, "Example needs n_layers in [1, inf), not 0."),
        ({"n_layers": 1.5}, "Example needs n_layers to be an integer, not 1.5 (float)."),
        ({"n_layers": True}, "Example needs n_layers to be an integer, not True (bool)."),
        ({"scope": "bottom"}, "Example needs scope to be 'all' or 'top', not 'bottom' (str)."),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence_with_what_is_allowed(arguments, sentence):
    with pytest.raises(InputError) as refusal:
        Example(**arguments)
    assert str(refusal.value) == sentence


def test_integers_become_floats_where_a_float_is_declared():
    assert Example(strength=1) == Example(strength=1.0)
    assert isinstance(Example(strength=1).strength, float)


def test_ranges_are_described_in_the_order_of_the_constructor():
    assert describe_ranges(Example) == {
        "strength": "[0, inf)",
        "rate": "[0, 1) or None",
        "keep_fraction": "(0, 1]",
        "n_layers": "[1, inf)",
        "scope": "'all' or 'top'",
    }


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_hyperparameter_is_refused(name):
    with pytest.raises(InputError, match="no_such_hyperparameter"):
        build_method(name, no_such_hyperparameter=1.0)


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_every_method_declares_its_range(name):
    for hyperparameter, allowed in describe_ranges(METHODS[name]).items():
        assert not allowed.startswith(("a number", "an integer")), hyperparameter
