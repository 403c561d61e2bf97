"""Truth in small random worlds: a second opinion on what entails what, independent of `meaning`.

A world has a few things of the kinds a sentence speaks of, and a few events between them. Definite phrases point to one
thing per role, the same for both sentences of a pair.
"""

from dataclasses import dataclass
from random import Random

from finetune_reg.pocket.grammar import Clause, NounPhrase, Place
from finetune_reg.pocket.lexicon import LEXICON

AT_LEAST = {"a": 1, "some": 1, "two": 2, "three": 3, "several": 3, "many": 4}


@dataclass(frozen=True)
class Thing:
    number: int
    kinds: frozenset[str]
    adjectives: frozenset[str]
    place: Place | None


@dataclass(frozen=True)
class Event:
    doer: Thing
    verb: str
    target: Thing | None
    manner: str | None
    place: Place | None
    time: str | None


@dataclass(frozen=True)
class World:
    things: list[Thing]
    events: list[Event]
    pointed_at: dict[str, list[Thing]]

    def is_true(self, clause: Clause) -> bool:
        """Whether the clause holds."""
        doers = self._matching(clause.subject, "subject")
        able = [doer for doer in doers if self._does(doer, clause)]
        return _holds(clause.subject, len(able), len(doers), clause.negated)

    def makes_sense_of(self, clause: Clause) -> bool:
        """Whether there is something for `every` or `all` to speak of."""
        return clause.subject.determiner not in ("every", "all") or bool(self._matching(clause.subject, "subject"))

    def _does(self, doer: Thing, clause: Clause) -> bool:
        """Whether the predicate, without its negation, is true of the doer."""
        events = [event for event in self.events if event.doer == doer and _fits(event, clause)]
        if clause.object is None:
            return bool(events)
        targets = self._matching(clause.object, "object")
        hit = [thing for thing in targets if any(event.target == thing for event in events)]
        return _holds(clause.object, len(hit), len(targets), False)

    def _matching(self, phrase: NounPhrase, role: str) -> list[Thing]:
        things = (
            self.pointed_at[role] if phrase.determiner in ("the", "this", "that", "these", "those") else self.things
        )
        return [thing for thing in things if describes(phrase, thing)]


def describes(phrase: NounPhrase, thing: Thing) -> bool:
    noun = "person" if phrase.noun == "someone" else phrase.noun
    return (
        noun in thing.kinds
        and (phrase.adjective is None or phrase.adjective in thing.adjectives)
        and (phrase.place is None or phrase.place == thing.place)
    )


def _holds(phrase: NounPhrase, able: int, candidates: int, negated: bool) -> bool:
    if phrase.determiner == "no":
        return able == 0
    if phrase.determiner in AT_LEAST:
        return (candidates - able if negated else able) >= AT_LEAST[phrase.determiner]
    if phrase.noun == "someone":
        return (candidates - able if negated else able) >= 1
    return candidates > 0 and able == (0 if negated else candidates)


def _fits(event: Event, clause: Clause) -> bool:
    verbs = {event.verb, LEXICON.verbs[event.verb].broader}
    return clause.verb in verbs and all(
        getattr(clause, role) in (None, getattr(event, role)) for role in ("manner", "place", "time")
    )


def random_world(first: Clause, second: Clause, rng: Random) -> World:
    """A world made of what the two clauses mention and of its relatives."""
    phrases = [phrase for clause in (first, second) for phrase in (clause.subject, clause.object) if phrase]
    density = rng.choice((0.15, 0.5, 0.9))
    things = [_random_thing(rng.choice(phrases), phrases, rng, number) for number in range(rng.randint(2, 7))]
    pointed_at = {}
    for role in ("subject", "object"):
        phrase = getattr(first, role) or first.subject
        count = 2 if phrase.plural else 1
        pointed_at[role] = [
            _random_thing(phrase, phrases, rng, 100 * (role == "object") + 10 + i) for i in range(count)
        ]
        things += pointed_at[role]
    narrow = [verb for verb, frame in LEXICON.verbs.items() if frame.broader in (first.verb, second.verb)]
    verbs = [first.verb, second.verb, *narrow[:1]]
    adverbials = {role: [getattr(first, role), getattr(second, role), None] for role in ("manner", "place", "time")}
    transitive = first.object is not None or second.object is not None
    events = []
    for doer in things:
        for target in things if transitive else [None]:
            for verb in verbs:
                if rng.random() < density:
                    details = {
                        role: rng.choice(choices[:2] if rng.random() < 0.8 else choices)
                        for role, choices in adverbials.items()
                    }
                    events.append(Event(doer, verb, target, **details))
    return World(things, events, pointed_at)


def _random_thing(phrase: NounPhrase, phrases: list[NounPhrase], rng: Random, number: int) -> Thing:
    noun = "person" if phrase.noun == "someone" else phrase.noun
    wide_or_narrow = [
        noun,
        *LEXICON.children.get(noun, [])[:3],
        *(p.noun for p in phrases if noun in LEXICON.ancestors(p.noun)),
    ]
    chosen = rng.choice(wide_or_narrow)
    kinds = {*LEXICON.ancestors(chosen)} | ({"person"} if chosen in LEXICON.names or chosen == "someone" else set())
    adjectives = {p.adjective for p in phrases if p.adjective and rng.random() < 0.6}
    place = rng.choice([p.place for p in phrases])
    return Thing(number, frozenset(kinds), frozenset(adjectives), place)
