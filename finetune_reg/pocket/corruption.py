"""Ways to make a sentence ungrammatical, for the acceptability task."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random

from finetune_reg.pocket.inflection import past_of, plural_of, third_person_of
from finetune_reg.pocket.lexicon import LEXICON, PREPOSITIONS, SOMEONE, TIMES

Words = list[str]

_VERBS = [word for verb in LEXICON.verbs for word in LEXICON.synonyms[verb]]
_NOUNS = [word for noun in dict.fromkeys([*LEXICON.parent, *LEXICON.children]) for word in LEXICON.synonyms[noun]]
BASE_TO_PAST = {verb: past_of(verb) for verb in _VERBS}
OTHER_NUMBER = {
    **{verb: third_person_of(verb) for verb in _VERBS},
    **{third_person_of(verb): verb for verb in _VERBS},
    **{"does": "do", "do": "does", "is": "are", "are": "is", "was": "were", "were": "was"},
}
NOUN_NUMBER = {**{noun: plural_of(noun) for noun in _NOUNS}, **{plural_of(noun): noun for noun in _NOUNS}}
SINGULAR_NOUNS = set(_NOUNS)
# "the", "some" and "no" go with both numbers
NUMBERED = {"a", "an", "this", "that", "every", "each", "these", "those", "two", "three", "many", "numerous",
            "several", "all"}  # fmt: skip
DETERMINERS = NUMBERED | {"the", "some", "no"}
AUXILIARIES = {"does", "do", "did", "will", "is", "are", "was", "were"}
MOVABLE = {word for manner in LEXICON.manners for word in LEXICON.synonyms[manner]}
MOVABLE |= {word for times in TIMES.values() for time in times for word in time.split()} | {","}


def wrong_agreement(words: Words) -> Iterator[Words]:
    """``The doctors buys a car.``"""
    yield from (_replaced(words, i, OTHER_NUMBER[word]) for i, word in enumerate(words) if word in OTHER_NUMBER)


def wrong_verb_form(words: Words) -> Iterator[Words]:
    """``The doctor did not bought a car.``"""
    for i, word in enumerate(words):
        if word in BASE_TO_PAST and AUXILIARIES & set(words[max(0, i - 2) : i]):
            yield _replaced(words, i, BASE_TO_PAST[word])


def wrong_noun_number(words: Words) -> Iterator[Words]:
    """``These doctor bought a car.``"""
    for i, word in enumerate(words):
        if word in NOUN_NUMBER and NUMBERED & set(words[max(0, i - 2) : i]):
            near = words[i - 1] if words[i - 1] in DETERMINERS else words[i - 2]
            if near in NUMBERED:
                yield _replaced(words, i, NOUN_NUMBER[word])


def exchanged_neighbours(words: Words) -> Iterator[Words]:
    """``The doctor a bought car.``"""
    for i, (left, right) in enumerate(pairwise(words)):
        question = left in (*LEXICON.names, *SOMEONE)  # "did Anna not sleep" is one
        if not question and not {left, right} & MOVABLE:
            yield [*words[:i], right, left, *words[i + 2 :]]


def missing_word(words: Words) -> Iterator[Words]:
    """``Doctor bought a car.`` or ``The doctor not buy a car.``"""
    for i, word in enumerate(words):
        rest = [*words[:i], *words[i + 1 :]]
        singular = words[i + 1 : i + 2] != [] and words[i + 1] in SINGULAR_NOUNS
        before_not = words[i + 1 : i + 2] == ["not"] and word in AUXILIARIES
        if (word in DETERMINERS and singular) or word in ("by", "be") or word in PREPOSITIONS or before_not:
            yield rest


def doubled_determiner(words: Words) -> Iterator[Words]:
    """``The this doctor bought a car.``"""
    for i, word in enumerate(words):
        if word in DETERMINERS:
            extra = "the" if word != "the" else "this"
            yield [*words[:i], extra, *words[i:]]


CORRUPTIONS: dict[Callable[[Words], Iterator[Words]], int] = {
    wrong_agreement: 6,
    wrong_verb_form: 2,
    wrong_noun_number: 4,
    exchanged_neighbours: 3,
    missing_word: 2,
    doubled_determiner: 1,
}


def corrupted(words: Words, rng: Random) -> Words | None:
    """The words with one grammatical error of a random sort; None if that sort cannot be made here."""
    corruption = rng.choices(list(CORRUPTIONS), list(CORRUPTIONS.values()))[0]
    options = list(corruption(words))
    return rng.choice(options) if options else None


def _replaced(words: Words, index: int, word: str) -> Words:
    return [*words[:index], word, *words[index + 1 :]]
