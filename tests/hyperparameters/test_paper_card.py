"""Every method documents itself: idea, equation, where it acts, differences from the released code, reference."""

from __future__ import annotations

import pytest

from finetune_reg.hyperparameters.paper_card import docstring_sections, paper_card
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import METHODS, Mixout

PAPERS = [name for name in METHODS if name != "combination"]


@pytest.mark.parametrize("name", PAPERS)
def test_every_method_has_a_complete_card(name):
    sections = docstring_sections(METHODS[name])
    titles = ("Idea", "Equation", "Where it acts", "Under adapters", "Differences from the released code", "Reference")
    for title in titles:
        assert len(sections.get(title, "")) > 20, title
    card = paper_card(METHODS[name])
    assert card.passes is not None
    assert all(f"`{call}`" in card.where for call in card.acts_in if call != "finalize"), card.acts_in


@pytest.mark.parametrize("name", PAPERS)
def test_every_hyperparameter_is_explained(name):
    cls = METHODS[name]
    documented = " ".join(base.__doc__ or "" for base in cls.__mro__ if issubclass(base, FineTuningMethod))
    for hyperparameter in paper_card(cls).hyperparameters:
        assert hyperparameter in documented, hyperparameter


def test_a_card_is_read_from_types_contract_and_docstring():
    card = paper_card(Mixout)
    assert card.hyperparameters["mix_probability"] == ("0.7", "[0, 1]")
    assert card.passes == (1, 1)
    assert card.acts_in == ("setup", "finalize")
    assert card.reference.startswith("Lee, Cho, Kang.")
    assert "(1) Its backward pass multiplies by `b`" in card.differences
