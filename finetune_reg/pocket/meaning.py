"""Edits of a clause whose effect on its meaning is known, after natural logic (MacCartney and Manning, 2007).

In an upward context a wider word weakens a sentence (``bought a car`` entails ``bought a vehicle``); under
``not`` and ``no``, and inside ``every`` and ``all``, it strengthens it. `weakened` and `strengthened` keep track, so
the premise entails every weakening of itself and, in general, none of the other edits.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from finetune_reg.pocket.grammar import (
    Clause,
    NounPhrase,
    adjectives_for,
    fits,
    is_sensible,
    sample_place,
)
from finetune_reg.pocket.lexicon import LEXICON, TIMES

RESTRICTED = ("every", "all", "no")
QUANTITIES = ("two", "three", "many", "several")
Edit = Callable[[Clause, Random], Clause | None]


def weakened(clause: Clause, rng: Random) -> Clause | None:
    """A clause that follows from this one and says less; None where no edit applies."""
    return _pick(_steps(clause, rng, weaker=True), rng)


def strengthened(clause: Clause, rng: Random) -> Clause | None:
    """A clause from which this one follows and that does not follow from it."""
    return _pick(_steps(clause, rng, weaker=False), rng)


def opposed(clause: Clause, rng: Random) -> Clause | None:
    """A clause that speaks against this one: negation, an opposite word, ``no``, or exchanged roles."""
    options = []
    if clause.allows_negation:
        options += 2 * [replace(clause, negated=not clause.negated)]
    if opposite := LEXICON.verbs[clause.verb].opposite:
        options += 2 * [replace(clause, verb=opposite)]
    if clause.manner in LEXICON.opposite:
        options += 2 * [replace(clause, manner=LEXICON.opposite[clause.manner])]
    for role in ("subject", "object"):
        phrase = getattr(clause, role)
        if phrase and phrase.adjective in LEXICON.opposite:
            turned = replace(phrase, adjective=LEXICON.opposite[phrase.adjective])
            options.append(_with(clause, role, turned))
    subject = clause.subject
    if not clause.negated and not subject.plural:
        if subject.determiner == "a":
            options.append(replace(clause, subject=replace(subject, determiner="no")))
        elif subject.determiner == "no":
            options.append(replace(clause, subject=replace(subject, determiner="a")))
    if clause.object and not subject.place and subject.determiner and subject.determiner not in RESTRICTED:
        options += 3 * [replace(clause, subject=clause.object, object=subject)]
    return _pick(options, rng)


def shifted(clause: Clause, rng: Random) -> Clause | None:
    """A clause about something else of the same kind: another noun, verb, place, time or adjective."""
    options = []
    for role in ("subject", "object"):
        phrase = getattr(clause, role)
        if phrase is None:
            continue
        if phrase.is_name:
            other = rng.choice([name for name in LEXICON.names if name != phrase.noun])
            options.append(_with(clause, role, replace(phrase, noun=other)))
        elif phrase.noun in LEXICON.parent:
            siblings = LEXICON.children[LEXICON.parent[phrase.noun]]
            nouns = [noun for noun in siblings if noun != phrase.noun]
            options.append(_with(clause, role, fit_adjective(replace(phrase, noun=rng.choice(nouns)))))
        if phrase.adjective:
            taken = (phrase.adjective, LEXICON.opposite.get(phrase.adjective))
            others = [word for word in adjectives_for(phrase.noun) if word not in taken]
            options.append(_with(clause, role, replace(phrase, adjective=rng.choice(others))))
    options.append(replace(clause, verb=rng.choice(unrelated_verbs(clause))))
    if clause.place:
        options.append(replace(clause, place=sample_place(rng)))
    if clause.time:
        options.append(replace(clause, time=rng.choice(TIMES[clause.tense])))
    return _pick([option for option in options if option != clause], rng)


def loosened(clause: Clause, rng: Random) -> Clause:
    """The clause weakened, if all of it is an upward context, else the clause itself.

    Opposing or shifting the outcome gives a clause the first does not entail. Elsewhere it could be entailed: ``no
    person slept`` weakens to ``no boy slept``, shifts to ``no girl slept``, and entails both.
    """
    upward = not clause.negated and clause.subject.determiner not in RESTRICTED
    return (weakened(clause, rng) if upward else None) or clause


def requantified(clause: Clause, rng: Random) -> Clause | None:
    """``every doctor`` as ``all doctors`` and back: another sentence, the same meaning."""
    other = {"every": "all", "all": "every"}.get(clause.subject.determiner)
    if other is None:
        return None
    return replace(clause, subject=replace(clause.subject, determiner=other, plural=other == "all"))


def unrelated_verbs(clause: Clause) -> list[str]:
    """Verbs that fit the arguments and are neither wider, narrower nor opposite; the verb itself if none."""
    frame = LEXICON.verbs[clause.verb]
    return [
        verb
        for verb, other in LEXICON.verbs.items()
        if verb not in (clause.verb, frame.broader, frame.opposite)
        and clause.verb not in (other.broader, other.opposite)
        and (other.takes_manner or not clause.manner)
        and fits(verb, clause.subject, clause.object)
    ] or [clause.verb]


def fit_adjective(phrase: NounPhrase) -> NounPhrase:
    """Drop an adjective that does not suit the noun."""
    suits = phrase.adjective is None or phrase.adjective in adjectives_for(phrase.noun)
    return phrase if suits else replace(phrase, adjective=None)


def apply_edits(clause: Clause, edits: list[Edit], rng: Random) -> Clause | None:
    """Apply the edits in turn; None if one does not apply or the outcome is not a sensible clause."""
    edited: Clause | None = clause
    for edit in edits:
        if edited is None:
            return None
        edited = edit(edited, rng)
    return edited


def _with(clause: Clause, role: str, part: Any) -> Clause:
    """The clause with another part, or none, in a role."""
    return replace(clause, **{role: part})


def _pick(options: list[Clause], rng: Random) -> Clause | None:
    options = [option for option in options if is_sensible(option)]
    return rng.choice(options) if options else None


def _steps(clause: Clause, rng: Random, *, weaker: bool) -> list[Clause]:
    """All clauses one step weaker (or stronger)."""
    upward = not clause.negated and clause.subject.determiner != "no"
    return _subject_steps(clause, rng, weaker) + _predicate_steps(clause, rng, widen=weaker == upward, upward=upward)


def _subject_steps(clause: Clause, rng: Random, weaker: bool) -> list[Clause]:
    subject = clause.subject
    if subject.determiner in RESTRICTED:
        steps = _narrower_descriptions(subject, rng) if weaker else _wider_descriptions(subject)
        if weaker and subject.determiner != "no":
            steps.append(replace(subject, determiner="some" if subject.plural else "a"))
    elif weaker:
        steps = wider(subject)
    else:
        steps = narrower(subject, rng)
        if subject.determiner in ("a", "some") and not clause.negated:
            steps.append(replace(subject, determiner="all" if subject.plural else "every"))
    return [replace(clause, subject=step) for step in steps]


def _predicate_steps(clause: Clause, rng: Random, *, widen: bool, upward: bool) -> list[Clause]:
    steps = []
    if clause.object and (upward or clause.object.determiner == "a"):
        phrases = wider(clause.object) if widen else narrower(clause.object, rng)
        steps += [replace(clause, object=phrase) for phrase in phrases]
    if widen:
        if broader := LEXICON.verbs[clause.verb].broader:
            steps += 2 * [replace(clause, verb=broader)]
        steps += [_with(clause, role, None) for role in ("manner", "place", "time") if getattr(clause, role)]
        return steps
    narrow = [verb for verb, frame in LEXICON.verbs.items() if frame.broader == clause.verb]
    steps += [replace(clause, verb=rng.choice(narrow))] * 2 if narrow else []
    if not (clause.manner or clause.place or clause.time):
        steps.append(replace(clause, place=sample_place(rng)))
        steps.append(replace(clause, time=rng.choice(TIMES[clause.tense])))
        if LEXICON.verbs[clause.verb].takes_manner:
            steps.append(replace(clause, manner=rng.choice(LEXICON.manners)))
    return steps


def wider(phrase: NounPhrase) -> list[NounPhrase]:
    """Phrases that cover more: without the adjective or place, a wider noun, ``a`` or ``some`` for the rest."""
    if not phrase.determiner:
        return [NounPhrase("", "someone")] if phrase.is_name else []
    loose = replace(phrase, determiner="some" if phrase.plural else "a")
    steps = _wider_descriptions(phrase if phrase.determiner in ("a", "some", *QUANTITIES) else loose)
    if loose != phrase:
        steps.append(loose)
    return steps


def narrower(phrase: NounPhrase, rng: Random) -> list[NounPhrase]:
    """Phrases that cover less: one more adjective, a narrower noun, a definite or counted one, a name."""
    if not phrase.determiner:
        return [] if phrase.is_name else [NounPhrase("", rng.choice(LEXICON.names))]
    if phrase.determiner not in ("a", "some", *QUANTITIES):
        return _narrower_descriptions(phrase, rng, nouns=False)
    steps = _narrower_descriptions(phrase, rng)
    if phrase.determiner == "some":
        steps.append(replace(phrase, determiner=rng.choice((*QUANTITIES, "these", "those"))))
    if phrase.determiner == "a":
        steps.append(replace(phrase, determiner=rng.choice(("the", "this", "that"))))
    return steps


def _wider_descriptions(phrase: NounPhrase) -> list[NounPhrase]:
    steps = []
    if phrase.noun in LEXICON.parent:
        parent = replace(phrase, noun=LEXICON.parent[phrase.noun])
        steps += 2 * [parent] if fit_adjective(parent) == parent else []
    if phrase.adjective:
        steps.append(replace(phrase, adjective=None))
    if phrase.place:
        steps.append(replace(phrase, place=None))
    return steps


def _narrower_descriptions(phrase: NounPhrase, rng: Random, *, nouns: bool = True) -> list[NounPhrase]:
    steps = []
    if phrase.noun in LEXICON.children and nouns:
        child = replace(phrase, noun=rng.choice(LEXICON.children[phrase.noun]))
        steps += 2 * [child] if fit_adjective(child) == child else []
    if phrase.adjective is None and phrase.place is None:
        steps.append(replace(phrase, adjective=rng.choice(adjectives_for(phrase.noun))))
    return steps
