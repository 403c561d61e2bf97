"""How alike two clauses are in meaning, from 0 (nothing in common) to 5 (the same)."""

from functools import reduce
from operator import add

from finetune_reg.pocket.grammar import Clause, NounPhrase, Place
from finetune_reg.pocket.lexicon import LEXICON

SUBJECT, VERB, OBJECT, ADVERBIAL = 1.5, 2.0, 1.5, 0.5
REVERSED = 0.6  # what a negation or an opposite leaves of the score


def similarity(first: Clause, second: Clause) -> float:
    """Weighted agreement of the slots, times `REVERSED` if exactly one of the two is negated; one decimal."""
    parts = [
        (SUBJECT, phrase_similarity(first.subject, second.subject)),
        (VERB, verb_similarity(first.verb, second.verb)),
    ]
    if first.object or second.object:
        parts.append((OBJECT, phrase_similarity(first.object, second.object)))
    for role in ("manner", "place", "time"):
        one, other = getattr(first, role), getattr(second, role)
        if one or other:
            parts.append((ADVERBIAL, adverbial_similarity(one, other)))
    # One after the other: from Python 3.12 on `sum` is more exact, which would change frozen rows.
    score = reduce(add, (weight * value for weight, value in parts)) / reduce(add, (weight for weight, _ in parts))
    if first.negated != second.negated:
        score *= REVERSED
    return round(5 * score, 1)


def phrase_similarity(first: NounPhrase | None, second: NounPhrase | None) -> float:
    """1 for the same phrase; less for another noun, determiner, adjective or place."""
    if first is None or second is None:
        return 0.0
    score = noun_similarity(first.noun, second.noun)
    determiners = {first.determiner, second.determiner}
    if len(determiners) == 2 and determiners != {"every", "all"}:
        score -= 0.1
    score -= 0.2 * (first.adjective != second.adjective) + 0.2 * (first.place != second.place)
    if len(determiners) == 2 and "no" in determiners:
        score *= REVERSED
    return max(score, 0.0)


def noun_similarity(first: str, second: str) -> float:
    """1 for the same concept, 0.7 for a kind and its member, 0.5 for two of a kind, 0.2 for a wider kind in common."""
    one, other = (LEXICON.ancestors(_as_kind(noun)) for noun in (first, second))
    if first == second:
        return 1.0
    if one[0] in other or other[0] in one:
        return 0.7
    if one[1:2] == other[1:2] and len(one) > 1:
        return 0.5
    return 0.2 if set(one) & set(other) else 0.0


def verb_similarity(first: str, second: str) -> float:
    """1 for the same concept, 0.7 for a verb and its broader verb, 0.3 for opposites."""
    one, other = LEXICON.verbs[first], LEXICON.verbs[second]
    if first == second:
        return 1.0
    if first == other.broader or second == one.broader:
        return 0.7
    return 0.3 if first == other.opposite or second == one.opposite else 0.0


def adverbial_similarity(first: str | Place | None, second: str | Place | None) -> float:
    """1 for the same, 0.5 for the same place under another preposition."""
    if first == second:
        return 1.0
    if isinstance(first, Place) and isinstance(second, Place) and first.noun == second.noun:
        return 0.5
    return 0.0


def _as_kind(noun: str) -> str:
    return "person" if noun in LEXICON.names or noun == "someone" else noun
