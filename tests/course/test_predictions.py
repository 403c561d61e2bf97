"""Questions before an outcome: each answer gets its sentence, and the right one is what the evidence says."""

from __future__ import annotations

import re

import nbformat
import pytest

from finetune_reg import paths
from finetune_reg.course.predictions import ask, paired, predictions
from finetune_reg.errors import InputError

ASKING = (
    "02_instability",
    "03_simple_baselines",
    "04_mixout",
    "05_smart",
    "06_child_tuning",
    "07_dps",
    "08_attention_guided_weight_mixup",
    "09_guided_dropout",
    "10_combining_methods",
    "11_flat_minima",
    "12_low_rank_and_noise",
)
BELOW, ABOVE, UNDECIDED = (
    ([1.0, 2.0, 3.0], [2.0, 3.1, 4.0]),
    ([2.0, 3.1, 4.0], [1.0, 2.0, 3.0]),
    ([1.0, 2.0], [2.0, 1.0]),
)
PAIRS = (BELOW, ABOVE, UNDECIDED)
# What decides each question about runs, so that every one of its answers is right once.
EVIDENCE = {
    "combining-interaction": PAIRS,
    "guided-against-uniform": PAIRS,
    "mixup-coefficient": tuple({"held-out rows": held_out, "training rows": 0.8} for held_out in (0.8, 0.4, 1.0)),
    "baselines-against-gentle": PAIRS,
    "dps-against-control": PAIRS,
    "child-against-control": PAIRS,
    "instability-collapse": ((0, 0, 5), (0, 3, 5), (1, 5, 5)),
    "mixout-distance": PAIRS,
    "sam-or-half-the-rate": PAIRS,
    "hype-or-other-masks": PAIRS,
    "smart-half": tuple(
        {"vanilla": [0.09, 0.1, 0.11], "smoothness alone": smoothness, "teacher alone": teacher}
        for smoothness in ([0.04, 0.055, 0.06], [0.1, 0.09, 0.12])
        for teacher in ([0.05, 0.04, 0.06], [0.12, 0.09, 0.1])
    ),
}
ALL = predictions()
FACTS = [name for name, asked in ALL.items() if isinstance(asked.right, str)]
every_prediction = pytest.mark.parametrize("name", ALL)


def cases(name):
    """The evidence of a question, once for each right answer."""
    return (None,) if name in FACTS else EVIDENCE[name]


@every_prediction
def test_the_right_answer_says_why_and_every_other_one_has_its_own_sentence(name):
    asked, right_once = ALL[name], set()
    for evidence in cases(name):
        right, figures = asked.outcome(evidence)
        right_once.add(right)
        assert bool(figures) == (name not in FACTS)
        replies = {letter: ask(name, letter, evidence).rpartition("\n")[2] for letter in asked.letters}
        for letter, reply in replies.items():
            choice = asked.letters[letter]
            said, verdict = (
                (choice.right, f"**{letter} is right.**") if letter == right else (choice.wrong, f"**Not {letter}.**")
            )
            assert len(said.split()) >= 6, (name, letter)
            assert reply == f"{verdict} {said} {figures}".rstrip()
        assert len(set(replies.values())) == len(asked.choices)
    assert right_once == ({asked.right} if name in FACTS else set(asked.letters))


@every_prediction
def test_a_choice_has_no_sentence_that_is_never_said(name):
    asked = ALL[name]
    for letter, choice in asked.letters.items():
        assert bool(choice.right) == (name not in FACTS or letter == asked.right)
        assert bool(choice.wrong) == (name not in FACTS or letter != asked.right)


@every_prediction
def test_a_question_without_an_answer_asks_for_one(name):
    shown = ask(name)
    assert ALL[name].question in shown
    assert all(f"- **{letter}:** {choice.text}" in shown for letter, choice in ALL[name].letters.items())
    assert shown.endswith("in place of `None` and run this cell, before you read on.*")
    assert "right" not in shown.rpartition("\n")[2]


@pytest.mark.parametrize("answer", ["z", "", "ab", 3, ["a"], True])
def test_an_answer_that_is_no_choice_gets_a_sentence(answer):
    assert ask("mixout-kept-weight", answer).endswith(
        f'*`{answer!r}` is none of the answers: write `"a"`, `"b"` or `"c"`.*'
    )


@pytest.mark.parametrize("answer", ["b", "B", " b "])
def test_a_letter_is_understood_however_it_is_written(answer):
    assert "**b is right.**" in ask("mixout-kept-weight", answer)


def test_a_misspelt_question_gets_the_nearest_name():
    with pytest.raises(InputError, match="There is no prediction 'mixout-distances': did you mean 'mixout-distance'"):
        ask("mixout-distances")


def test_two_settings_are_compared_seed_by_seed():
    rule = paired("a", "b", "c", factor=100)
    assert rule(BELOW) == ("a", "Here the mean difference is -103.3 [-117.7, -89.0] on 3 equal seeds.")
    assert rule(ABOVE)[0] == "b"
    assert rule(UNDECIDED)[0] == rule(([1.0], [2.0]))[0] == "c"


def test_each_lesson_asks_two_questions_before_it_shows_their_outcome():
    asked = {}
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and (calls := re.findall(r'^ask\("([\w-]+)", None\b(.*)\)', cell.source, re.M)):
                ((name, evidence),) = calls
                asked.setdefault(path.stem, []).append(name)
                assert cell.source.count("\n") == 0, "a question is a cell of its own"
                assert bool(evidence) == (name not in FACTS), name
                assert "**Predict.**" in "".join(output.data["text/markdown"] for output in cell.outputs)
    assert {lesson: len(names) for lesson, names in asked.items()} == dict.fromkeys(ASKING, 2)
    assert sorted(name for names in asked.values() for name in names) == sorted(ALL)
