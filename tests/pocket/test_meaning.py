"""Labels of the pair tasks, checked against truth in small random worlds."""

from random import Random

import pytest
from pocket_worlds import random_world

from finetune_reg.pocket.corpus import related_clause
from finetune_reg.pocket.grammar import Clause, NounPhrase, sample_clause
from finetune_reg.pocket.meaning import requantified
from finetune_reg.pocket.similarity import similarity

WORLDS = 40


def pairs(relation: str, count: int):
    rng = Random(f"meaning {relation}")
    while count:
        first = sample_clause(rng)
        second = related_clause(first, relation, rng)
        if second is not None and second != first:
            count -= 1
            yield first, second, rng


def counterexample(first: Clause, second: Clause, rng: Random, worlds: int = WORLDS) -> bool:
    candidates = (random_world(first, second, rng) for _ in range(worlds))
    return any(
        world.makes_sense_of(second) and world.is_true(first) and not world.is_true(second) for world in candidates
    )


def test_no_world_contradicts_an_entailment():
    for first, second, rng in pairs("therefore", 200):
        assert not counterexample(first, second, rng), (first, second)


@pytest.mark.parametrize("relation", ["perhaps", "however", "similarly"])
def test_nearly_every_other_pair_has_a_world_that_refutes_it(relation):
    found = [counterexample(first, second, rng, 400) for first, second, rng in pairs(relation, 100)]
    assert sum(found) >= 90


def test_every_and_all_mean_the_same():
    rng, checked = Random(5), 0
    while checked < 30:
        first = sample_clause(rng)
        if (second := requantified(first, rng)) is not None:
            checked += 1
            for world in (random_world(first, second, rng) for _ in range(WORLDS)):
                assert world.is_true(first) == world.is_true(second)


def test_similarity_is_graded():
    doctor = NounPhrase("the", "doctor")
    clause = Clause(doctor, "buy", NounPhrase("a", "car"), "past")
    truck = Clause(doctor, "buy", NounPhrase("a", "truck"), "past")
    sold = Clause(doctor, "sell", NounPhrase("a", "car"), "past")
    negated = Clause(doctor, "buy", NounPhrase("a", "car"), "past", negated=True)
    other = Clause(NounPhrase("two", "owl", plural=True), "swim", None, "past")
    scores = [similarity(clause, second) for second in (clause, truck, sold, negated, other)]
    assert scores == [5.0, 4.2, 3.6, 3.0, 0.0]
