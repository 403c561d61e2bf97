"""The account counts what was put into the table, and warns of what was spoilt on purpose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from own_table.tables import tickets

from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.own_table.duplicates import find_duplicates
from finetune_reg.own_table.inspection import inspect_table
from finetune_reg.own_table.selection import select_rows


def account(frame: pd.DataFrame, max_length: int = 64, **options):
    table = select_rows(frame.astype(object), ["ticket"], options.pop("label", "queue"), **options)
    return inspect_table(table, load_encoder("pocket", table.task, seed=0), max_length)


def spoilt() -> pd.DataFrame:
    frame = tickets(seed=1, n=90)
    frame["ticket"] = [
        f"{text} {word * 4}" for text, word in zip(frame.ticket, map(str, range(1000, 1090)), strict=True)
    ]
    frame.loc[10, "ticket"] = frame.ticket[4].upper().replace(" ", "  ")
    frame.loc[10, "queue"] = frame.queue[4]
    frame.loc[11, "ticket"] = frame.ticket[5]
    frame.loc[11, "queue"] = "billing" if frame.queue[5] != "billing" else "outage"
    frame.loc[20, "ticket"] = frame.ticket[21] + "!"
    return frame


def test_duplicates_and_contradictions_are_counted_and_joined():
    table = select_rows(spoilt().astype(object), ["ticket"], "queue")
    found = find_duplicates(table)
    assert (found.n_repeated, found.contradictions, found.templates) == (2, [11], 0)
    assert found.units[10] == found.units[4]
    assert found.units[11] == found.units[5]
    assert found.units[20] == found.units[21]
    assert found.n_near >= 2


def test_rows_of_a_group_are_one_unit_and_so_is_what_repeats_one_of_them():
    frame = spoilt()
    table = select_rows(frame.astype(object), ["ticket"], "queue", group="customer")
    units = find_duplicates(table).units
    assert all(len(set(units[frame.customer == name])) == 1 for name in frame.customer.unique())
    assert units[10] == units[4]  # rows of c2 and c1 that are joined by an equal text


def test_templates_are_not_joined_but_said():
    frame = tickets(n=60).assign(
        ticket=[f"the sensor number {i} of the large hall reports a failure" for i in range(60)]
    )
    found = find_duplicates(select_rows(frame.astype(object), ["ticket"], "queue"))
    assert found.templates == 60
    assert len(set(found.units)) == 60
    assert any("filled-in templates" in warning for warning in account(frame).warnings)


def test_the_account_has_a_sentence_for_each_question():
    facts = dict(account(spoilt(), max_length=12).facts)
    assert len(facts) <= 10
    assert facts["Rows"] == "90; text in 'ticket', label in 'queue'."
    assert facts["Classes"].startswith("3: ")
    assert facts["Duplicates"].startswith("2 rows repeat the text of another one")
    assert "(in the file, from 0: 11)" in facts["Contradictions"]
    assert "cut at 12" in facts["Lengths"]
    assert "best constant answer reaches" in facts["Measured"]


def test_scores_are_described_as_such():
    facts = dict(account(tickets(), label="minutes", scores=True).facts)
    assert facts["Scores"].startswith("From 0 to 26")
    assert "reaches 0.0 of 100" in facts["Measured"]


def with_labels_in_the_text(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(ticket=frame.ticket + " [label=" + frame.queue + "]")


def with_contradictions(frame: pd.DataFrame) -> pd.DataFrame:
    shuffled = frame.queue.sample(frac=1, random_state=0).to_numpy()
    return frame.assign(ticket=frame.ticket[np.arange(len(frame)) % 40].to_numpy(), queue=shuffled)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_labels_in_the_text, "Is the label part of the text?"),
        (lambda frame: frame, "The encoder does not know"),
        (lambda frame: frame.assign(ticket=frame.ticket * 20), "of the rows are cut"),
        (with_contradictions, "contradict another one"),
    ],
)
def test_what_spoils_a_comparison_is_warned_of(change, sentence):
    assert any(sentence in warning for warning in account(change(tickets())).warnings)


def test_a_score_in_the_text_is_warned_of():
    frame = tickets().assign(ticket=lambda t: t.ticket + " took " + t.minutes.astype(str))
    assert any(
        "The score stands in the text" in warning for warning in account(frame, label="minutes", scores=True).warnings
    )
