"""Four tasks shaped like the small GLUE tasks: CoLA, RTE, MRPC and STS-B.

The validation split holds out verb-and-noun combinations: if ``buy car`` is one of them, no training sentence says that
anyone bought a car, under any wording. Pairs that differ in meaning share about as many words as pairs that do not.
"""

from collections.abc import Callable
from random import Random

from finetune_reg.pocket.corruption import corrupted
from finetune_reg.pocket.grammar import (
    Clause,
    choose_wording,
    is_held_out,
    render,
    sample_clause,
    to_text,
)
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
from finetune_reg.pocket.similarity import similarity

POCKET_TASKS = ("acceptability", "entailment", "paraphrase", "similarity")
SPLIT_SIZES = {"train": 2_000, "validation": 500}
MAX_WORDS = 26  # of a pair
ACCEPTABLE_DRAWS = 0.38  # many sentences have no place for the error drawn, and are dropped


def generate_task(name: str) -> dict[str, list[dict]]:
    """The rows of one task by split, the same at every call.

    Rows hold ``sentence`` (acceptability) or ``sentence1`` and ``sentence2``, then ``label`` and ``idx``. Labels:
    acceptability 1 is acceptable, entailment 0 is entailment, paraphrase 1 is paraphrase, similarity is 0.0 to 5.0.

    Raises:
        ValueError: No pocket task has this name.
    """
    if name not in POCKET_TASKS:
        raise ValueError(f"No pocket task is named {name!r}; choose one of {', '.join(POCKET_TASKS)}.")
    rng = Random(POCKET_TASKS.index(name))
    seen: dict[str, str] = {}  # sentence -> split
    return {split: _split_rows(name, split, rng, seen) for split in SPLIT_SIZES}


def _split_rows(name: str, split: str, rng: Random, seen: dict[str, str]) -> list[dict]:
    rows: list[dict] = []
    pairs = set()
    while len(rows) < SPLIT_SIZES[split]:
        sentences, label = _draw_row(name, split, rng) or ((), None)
        clash = sentences in pairs or any(seen.get(sentence, split) != split for sentence in sentences)
        if not sentences or clash:
            continue
        pairs.add(sentences)
        seen.update(dict.fromkeys(sentences, split))
        columns = ("sentence",) if len(sentences) == 1 else ("sentence1", "sentence2")
        rows.append({**dict(zip(columns, sentences, strict=True)), "label": label, "idx": len(rows)})
    return rows


def _draw_row(name: str, split: str, rng: Random) -> tuple[tuple[str, ...], float] | None:
    """Sentences and label, or None if the draw does not belong to the split."""
    clause = sample_clause(rng)
    if is_held_out(clause) != (split == "validation"):
        return None
    if name == "acceptability":
        words = render(clause, choose_wording(clause, rng))
        acceptable = rng.random() < ACCEPTABLE_DRAWS
        written = words if acceptable else corrupted(words, rng)
        return ((to_text(written),), int(acceptable)) if written else None
    edits, label = PAIR_DRAWS[name](rng)
    second = apply_edits(clause, edits, rng)
    if second is None or (split == "train" and is_held_out(second)):
        return None
    if name == "similarity":
        label = similarity(clause, second)
    elif same_meaning not in edits and second == clause:
        return None
    wording = choose_wording(clause, rng)
    reworded = choose_wording(second, rng, wording, 0.75 if second == clause else 0.6)
    first_words, second_words = render(clause, wording), render(second, reworded)
    if first_words == second_words or len(first_words) + len(second_words) > MAX_WORDS:
        return None
    return (to_text(first_words), to_text(second_words)), label


def same_meaning(clause: Clause, rng: Random) -> Clause:
    """The clause itself, or with ``every`` for ``all``."""
    return (requantified(clause, rng) if rng.random() < 0.5 else None) or clause


def unrelated(clause: Clause, rng: Random) -> Clause:
    """Some other clause."""
    return sample_clause(rng)


def draw_entailment(rng: Random) -> tuple[list[Edit], int]:
    """Edits and label: half the pairs weaken the first sentence, the others strengthen, oppose or shift it."""
    if rng.random() < 0.5:
        positives: tuple[list[Edit], ...] = [weakened], [weakened, weakened], [same_meaning]
        return rng.choices(positives, (5, 1, 3))[0], 0
    negatives: tuple[list[Edit], ...] = [strengthened], [opposed], [shifted], [loosened, opposed], [loosened, shifted]
    return rng.choices(negatives, (4, 6, 4, 1, 1))[0], 1


def draw_paraphrase(rng: Random) -> tuple[list[Edit], int]:
    """Edits and label: new words only, or new words and one change of meaning."""
    if rng.random() < 0.43:
        return [same_meaning], 1
    return [rng.choice((weakened, strengthened, opposed, shifted))], 0


def draw_similarity(rng: Random) -> tuple[list[Edit], float]:
    """Edits; the label follows from their outcome."""
    if rng.random() < 0.1:
        return [unrelated], 0.0
    count = rng.choice((0, 1, 2, 3, 4))
    return [same_meaning, *rng.choices((weakened, strengthened, opposed, shifted), (1, 1, 1, 3), k=count)], 0.0


PAIR_DRAWS: dict[str, Callable[[Random], tuple[list[Edit], float]]] = {
    "entailment": draw_entailment,
    "paraphrase": draw_paraphrase,
    "similarity": draw_similarity,
}
