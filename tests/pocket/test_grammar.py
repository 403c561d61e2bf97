"""The words and sentences of pocket."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from finetune_reg.pocket.corpus import RELATIONS, generate_documents
from finetune_reg.pocket.grammar import (
    Clause,
    NounPhrase,
    Place,
    Wording,
    choose_wording,
    is_sensible,
    render,
    sample_clause,
    to_text,
)
from finetune_reg.pocket.inflection import participle_of, past_of, plural_of, third_person_of
from finetune_reg.pocket.lexicon import LEXICON, PLURAL_DETERMINERS, SINGULAR_DETERMINERS
from finetune_reg.pocket.tokenizer import RELATION_WORDS, build_tokenizer, vocabulary

DOCTORS = NounPhrase("those", "doctor", plural=True, adjective="old")


def text(clause: Clause, wording: Wording | None = None) -> str:
    return to_text(render(clause, wording or Wording({})))


def test_the_lexicon_has_hundreds_of_words_and_no_word_means_two_things():
    words = [word for group in LEXICON.synonyms.values() for word in group]
    assert 450 <= len(words) <= 800
    assert [word for word, count in Counter(words).items() if count > 1] == []
    verbs = [word for verb in LEXICON.verbs for word in LEXICON.synonyms[verb]]
    forms = Counter()
    for verb in verbs:
        forms.update({verb, third_person_of(verb), past_of(verb), participle_of(verb)})
    for noun in {*LEXICON.parent, *LEXICON.children}:
        for word in LEXICON.synonyms[noun]:
            forms.update((word, plural_of(word)))
    assert [form for form, count in forms.items() if count > 1] == []


def test_every_reference_in_the_verb_table_exists():
    for verb in LEXICON.verbs.values():
        assert all(kind in LEXICON.synonyms for kind in verb.subjects + verb.objects)
        assert all(other is None or other in LEXICON.verbs for other in (verb.opposite, verb.broader))


@pytest.mark.parametrize(
    ("clause", "wording", "expected"),
    [
        (Clause(DOCTORS, "buy", NounPhrase("a", "apple"), "past"), None, "Those old doctors bought an apple."),
        (
            Clause(DOCTORS, "buy", NounPhrase("a", "apple"), "present", negated=True),
            Wording({"doctor": "physician", "buy": "purchase"}),
            "Those old physicians do not purchase an apple.",
        ),
        (
            Clause(NounPhrase("every", "person"), "feed", NounPhrase("the", "child", True), "present"),
            Wording({"every": "each", "child": "kid"}),
            "Each person feeds the kids.",
        ),
        (
            Clause(NounPhrase("", "anna"), "steal", NounPhrase("this", "car"), "past", negated=True, time="last night"),
            Wording({"car": "automobile"}, passive=True, time_first=True),
            "Last night, this automobile was not stolen by Anna.",
        ),
        (
            Clause(NounPhrase("", "emma", place=Place("in", "barn")), "carry", NounPhrase("a", "box"), "future"),
            Wording({}, passive=True),
            "A box will be carried by Emma in the barn.",
        ),
    ],
)  # fmt: skip
def test_sentences_read_as_english(clause, wording, expected):
    assert text(clause, wording) == expected


def test_sampled_sentences_agree_in_number():
    rng = Random(0)
    singular = {word for words in SINGULAR_DETERMINERS.values() for word in words} | {"an"}
    plural = {word for words in PLURAL_DETERMINERS.values() for word in words}
    for _ in range(2_000):
        clause = sample_clause(rng)
        assert is_sensible(clause)
        words = render(clause, choose_wording(clause, rng))
        sentence = to_text(words)
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        for word, following in pairwise(words):
            assert (word == "an") == (following[0] in "aeiou") or word not in ("a", "an")
        for phrase in filter(None, (clause.subject, clause.object)):
            assert phrase.determiner in ({""} | (plural if phrase.plural else singular))
        if clause.tense == "present" and ("do" in words or "does" in words):
            assert ("do" in words) == clause.subject.plural
        if {"was", "were", "is", "are"} & set(words):
            assert bool({"were", "are"} & set(words)) == clause.object.plural


def test_documents_are_deterministic_and_hold_every_relation():
    documents = list(generate_documents(500, seed=3))
    assert documents == list(generate_documents(500, seed=3))
    assert set(RELATIONS) == set(RELATION_WORDS) == {d.relation for d in documents if d.relation}
    for document in documents:
        if document.relation and document.written:
            assert document.second.startswith(document.relation.capitalize() + ", ")


def test_the_tokenizer_knows_every_word_and_marks_the_second_sentence():
    tokenizer = build_tokenizer()
    assert len(tokenizer) == len(vocabulary()) == len(set(vocabulary()))
    sentences = [part for document in generate_documents(3_000, seed=4) for part in document[:2] if part]
    assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(sentences)["input_ids"])
    pair = tokenizer("The dog slept.", "An owl ran.")
    tokens = tokenizer.convert_ids_to_tokens(pair["input_ids"])
    assert tokens == ["[CLS]", "the", "dog", "slept", ".", "[SEP]", "an", "owl", "ran", ".", "[SEP]"]
    assert pair["token_type_ids"] == [0] * 6 + [1] * 5
