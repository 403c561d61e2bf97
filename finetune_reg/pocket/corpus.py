"""The corpus the encoder is pretrained on: single sentences, and pairs joined by a relation word.

``The doctor bought a car. Therefore, a person obtained a vehicle.`` What makes the encoder useful for sentence pairs
is that the relation word can be predicted only by comparing the two sentences. Some pairs leave the word out, and the
encoder is asked for it at ``[CLS]``, where BERT is asked whether the second sentence follows the first.
"""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from finetune_reg.pocket.grammar import Clause, choose_wording, render, sample_clause, to_text
from finetune_reg.pocket.meaning import (
    Edit,
    apply_edits,
    loosened,
    opposed,
    requantified,
    shifted,
    strengthened,
    weakened,
)

# relation word: how often among pairs, and how often the second sentence swaps a word for a synonym
RELATIONS = {
    "indeed": (0.20, 0.7),
    "therefore": (0.24, 0.4),
    "perhaps": (0.18, 0.4),
    "however": (0.20, 0.4),
    "similarly": (0.12, 0.4),
    "meanwhile": (0.06, 0.5),
}
SINGLE_SENTENCES = 0.2
UNWRITTEN_RELATIONS = 0.4


class Document(NamedTuple):
    """One or two sentences; a relation word that is not ``written`` is known but not in the text."""

    first: str
    second: str | None = None
    relation: str | None = None
    written: bool = True


def generate_documents(count: int, seed: int) -> Iterator[Document]:
    """Draw documents, the same for the same seed."""
    rng = Random(seed)
    for _ in range(count):
        yield sample_document(rng)


def sample_document(rng: Random) -> Document:
    """Draw a single sentence or a pair."""
    clause = sample_clause(rng)
    wording = choose_wording(clause, rng)
    first = to_text(render(clause, wording))
    if rng.random() < SINGLE_SENTENCES:
        return Document(first)
    relation = rng.choices(list(RELATIONS), [share for share, _ in RELATIONS.values()])[0]
    other = related_clause(clause, relation, rng)
    while other is None or (other == clause and relation != "indeed"):
        relation = rng.choice(list(RELATIONS))
        other = related_clause(clause, relation, rng)
    words = render(other, choose_wording(other, rng, wording, RELATIONS[relation][1]))
    written = rng.random() >= UNWRITTEN_RELATIONS
    return Document(first, to_text([relation, ",", *words] if written else words), relation, written)


def related_clause(clause: Clause, relation: str, rng: Random) -> Clause | None:
    """A clause that stands in the relation to the given one; None if none was found."""
    return apply_edits(clause, edits_for(relation, rng), rng)


def edits_for(relation: str, rng: Random) -> list[Edit]:
    """Edits whose outcome is joined by the relation word."""
    again = rng.random() < 0.4
    if relation == "indeed":
        return [_requantified_or_same]
    if relation == "therefore":
        return [weakened, weakened] if again else [weakened]
    if relation == "perhaps":
        return [strengthened, strengthened] if again else [strengthened]
    if relation == "however":
        return [loosened, opposed] if again else [opposed]
    if relation == "similarly":
        return [loosened, shifted] if again else [shifted]
    return [lambda clause, rng: sample_clause(rng)]


def _requantified_or_same(clause: Clause, rng: Random) -> Clause:
    return requantified(clause, rng) or clause
