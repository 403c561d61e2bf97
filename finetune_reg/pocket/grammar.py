"""Sentences of the embedded world: a meaning (`Clause`), drawn at random, and its wording in English.

A clause holds concepts; `render` chooses the words. The same clause can therefore be worded in many ways that
share few words, and two sentences with nearly the same words can have different clauses.
"""

from dataclasses import dataclass, replace
from random import Random
from zlib import crc32

from finetune_reg.pocket.inflection import participle_of, past_of, plural_of, third_person_of
from finetune_reg.pocket.lexicon import INDOORS, LEXICON, OUTDOORS, PLURAL_DETERMINERS, SINGULAR_DETERMINERS, TIMES

DEFINITE = ("the", "this", "that", "these", "those")


@dataclass(frozen=True)
class Place:
    """``near the castle``; ``plural`` gives ``near the castles``."""

    preposition: str
    noun: str
    plural: bool = False


@dataclass(frozen=True)
class NounPhrase:
    """``the happy doctor near the shops``. Names and ``someone`` have the determiner ``""``."""

    determiner: str
    noun: str
    plural: bool = False
    adjective: str | None = None
    place: Place | None = None

    @property
    def is_name(self) -> bool:
        """Whether it is a proper name."""
        return self.noun in LEXICON.names

    @property
    def is_definite(self) -> bool:
        """Whether it points to someone or something in particular."""
        return self.is_name or self.determiner in DEFINITE


@dataclass(frozen=True)
class Clause:
    """Who did what to whom, how, where and when. ``tense`` is a key of `TIMES`."""

    subject: NounPhrase
    verb: str
    object: NounPhrase | None
    tense: str
    negated: bool = False
    manner: str | None = None
    place: Place | None = None
    time: str | None = None

    @property
    def allows_negation(self) -> bool:
        """Whether ``not`` has one clear reading: no quantifier for it to slide past."""
        return self.subject.is_definite and (self.object is None or self.object.determiner in ("a", *DEFINITE))

    @property
    def allows_passive(self) -> bool:
        """Whether the passive means the same: nothing in it that could change scope."""
        if self.object is None:
            return False
        phrases = (self.subject, self.object)
        return all(phrase.is_definite or (phrase.determiner == "a" and not self.negated) for phrase in phrases)


@dataclass(frozen=True)
class Wording:
    """Choices of form that leave the meaning alone: the word for each concept, passive voice, time first."""

    words: dict[str, str]
    passive: bool = False
    time_first: bool = False


def sample_clause(rng: Random, busy: float = 1.0) -> Clause:
    """Draw a sensible clause; ``busy`` scales how often adjectives and adverbials appear."""
    verb = rng.choice(list(LEXICON.verbs))
    frame = LEXICON.verbs[verb]
    tense = rng.choices(list(TIMES), (5, 4, 1))[0]
    subject = sample_phrase(rng, rng.choice(frame.subjects), subject=True, busy=busy)
    clause = Clause(subject, verb, None, tense)
    if frame.objects:
        kind = rng.choice(frame.objects)
        phrase = sample_phrase(rng, kind, subject=False, busy=busy)
        clause = replace(clause, object=phrase)
    extra = rng.random() / busy
    if extra < 0.16 and frame.takes_manner:
        clause = replace(clause, manner=rng.choice(LEXICON.manners))
    elif extra < 0.32:
        clause = replace(clause, place=sample_place(rng))
    elif extra < 0.45:
        clause = replace(clause, time=rng.choice(TIMES[tense]))
    return replace(clause, negated=clause.allows_negation and rng.random() < 0.25)


def sample_phrase(rng: Random, kind: str, *, subject: bool, busy: float = 1.0) -> NounPhrase:
    """Draw a noun phrase of the given kind; names, ``every``, ``all`` and ``no`` only as subjects."""
    if subject and kind == "person" and rng.random() < 0.12:
        return NounPhrase("", rng.choice([*LEXICON.names, "someone", "someone"]))
    noun = sample_noun(rng, kind)
    plural = rng.random() < 0.45
    determiners = PLURAL_DETERMINERS if plural else SINGULAR_DETERMINERS
    usual = [d for d in determiners if subject or d not in ("every", "all", "no")]
    phrase = NounPhrase(rng.choice([*usual, "the"]), noun, plural)
    if rng.random() < 0.22 * busy:
        phrase = replace(phrase, adjective=rng.choice(adjectives_for(noun)))
    elif subject and rng.random() < 0.10 * busy:
        phrase = replace(phrase, place=replace(sample_place(rng), plural=rng.random() < 0.6))
    return phrase


def sample_noun(rng: Random, kind: str) -> str:
    """Draw a noun of the kind, one time in five the kind itself or another word that covers several."""
    below = LEXICON.descendants(kind)
    wide = [noun for noun in [kind, *below] if noun in LEXICON.children]
    narrow = [noun for noun in below if noun not in LEXICON.children]
    return rng.choice(wide if rng.random() < 0.2 else narrow)


def sample_place(rng: Random) -> Place:
    """Draw a place and a preposition that suits it."""
    noun = rng.choice(LEXICON.places)
    return Place(rng.choice(INDOORS if noun in LEXICON.children["building"] else OUTDOORS), noun)


def adjectives_for(noun: str) -> list[str]:
    """The adjectives that suit a noun: those of its nearest kind that has any."""
    return next(LEXICON.adjectives[kind] for kind in LEXICON.ancestors(noun) if kind in LEXICON.adjectives)


def is_sensible(clause: Clause) -> bool:
    """Whether the verb takes such a subject and such an object."""
    return fits(clause.verb, clause.subject, clause.object)


def fits(verb: str, subject: NounPhrase, object_: NounPhrase | None) -> bool:
    """Whether the verb takes the subject and the object, or does without one."""
    frame = LEXICON.verbs[verb]
    if (object_ is None) == bool(frame.objects):
        return False
    doer = subject.noun if subject.determiner else "person"
    return LEXICON.is_any(doer, frame.subjects) and (object_ is None or LEXICON.is_any(object_.noun, frame.objects))


def combination(clause: Clause) -> str:
    """The verb with its object, or with its subject when it has none: what the validation splits hold out."""
    return f"{clause.verb} {(clause.object or clause.subject).noun}"


def is_held_out(clause: Clause) -> bool:
    """One combination in five, fixed for all time by a checksum."""
    return crc32(combination(clause).encode()) % 5 == 0


def concepts_of(clause: Clause) -> list[str]:
    """Every concept of the clause that has a choice of words."""
    found = [clause.verb, clause.manner]
    for phrase in filter(None, (clause.subject, clause.object)):
        found += [phrase.determiner, phrase.adjective, phrase.noun]
        found += [phrase.place.preposition, phrase.place.noun] if phrase.place else []
    found += [clause.place.preposition, clause.place.noun] if clause.place else []
    return [concept for concept in found if concept in LEXICON.synonyms]


def choose_wording(clause: Clause, rng: Random, other: Wording | None = None, reword: float = 0.5) -> Wording:
    """Choose words at random, or relative to ``other``: a new word with probability ``reword``, else the same."""
    words = {}
    for concept in concepts_of(clause):
        options = LEXICON.synonyms[concept]
        if other is not None and concept in other.words:
            previous = other.words[concept]
            fresh = [word for word in options if word != previous] or [previous]
            words[concept] = rng.choice(fresh) if rng.random() < reword else previous
        else:
            words[concept] = rng.choice(options)
    passive = clause.allows_passive and rng.random() < 0.15
    return Wording(words, passive, clause.time is not None and rng.random() < 0.4)


def render(clause: Clause, wording: Wording) -> list[str]:
    """The words of the clause in order, without capital letter and full stop."""
    subject = phrase_words(clause.subject, wording)
    verb = wording.words.get(clause.verb, clause.verb)
    if wording.passive and clause.object:
        auxiliary = _be(clause.tense, clause.object.plural)
        negation = ["not"] if clause.negated else []
        core = phrase_words(clause.object, wording) + auxiliary[:1] + negation + auxiliary[1:]
        core += [participle_of(verb), "by", *subject]
    else:
        core = subject + _verb_group(verb, clause.tense, clause.subject.plural, clause.negated)
        core += phrase_words(clause.object, wording) if clause.object else []
    core += [wording.words.get(clause.manner, clause.manner)] if clause.manner else []
    core += place_words(clause.place, wording) if clause.place else []
    time = clause.time.split() if clause.time else []
    return [*time, ",", *core] if wording.time_first else core + time


def phrase_words(phrase: NounPhrase, wording: Wording) -> list[str]:
    """``["an", "old", "house"]``."""
    noun = wording.words.get(phrase.noun, phrase.noun)
    words = [wording.words.get(phrase.adjective, phrase.adjective)] if phrase.adjective else []
    words.append(plural_of(noun) if phrase.plural else noun)
    if phrase.determiner:
        determiner = wording.words.get(phrase.determiner, phrase.determiner)
        words.insert(0, "an" if determiner == "a" and words[0][0] in "aeiou" else determiner)
    return words + (place_words(phrase.place, wording) if phrase.place else [])


def place_words(place: Place, wording: Wording) -> list[str]:
    """``["near", "the", "castle"]``."""
    noun = wording.words.get(place.noun, place.noun)
    preposition = wording.words.get(place.preposition, place.preposition)
    return [preposition, "the", plural_of(noun) if place.plural else noun]


def _verb_group(verb: str, tense: str, plural: bool, negated: bool) -> list[str]:
    if tense == "future":
        return ["will", "not", verb] if negated else ["will", verb]
    if negated:
        auxiliary = "did" if tense == "past" else "do" if plural else "does"
        return [auxiliary, "not", verb]
    if tense == "past":
        return [past_of(verb)]
    return [verb if plural else third_person_of(verb)]


def _be(tense: str, plural: bool) -> list[str]:
    if tense == "future":
        return ["will", "be"]
    if tense == "past":
        return ["were" if plural else "was"]
    return ["are" if plural else "is"]


def to_text(words: list[str]) -> str:
    """``["the", "dog", "slept"]`` to ``"The dog slept."``; names get their capital letter."""
    spelled = [word.capitalize() if word in LEXICON.names else word for word in words]
    text = " ".join(spelled).replace(" ,", ",")
    return text[0].upper() + text[1:] + "."
