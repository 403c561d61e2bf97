"""Made-up tables of other fields than the papers': support tickets, and what people get wrong in such files."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
from tiny_world import WORDS

SUBJECTS = {
    "billing": ["invoice", "refund", "charge", "payment", "receipt", "price"],
    "outage": ["server", "login", "website", "network", "mail", "database"],
    "delivery": ["parcel", "courier", "box", "package", "shipment", "order"],
}
VERBS = ["is wrong", "never came", "does not work", "was late", "looks strange", "fails", "is missing", "broke again"]
OPENINGS = [
    "Hello, the",
    "Since monday our",
    "Please check: my",
    "I think the",
    "Again the",
    "Good morning, a",
    "Sorry but this",
]
ENDINGS = ["what now?", "please help.", "I am waiting.", "thanks!", "call me back.", "this is urgent.", "any news?"]


def tickets(n: int = 120, seed: int = 0, wrong: int = 4) -> pd.DataFrame:
    """Support tickets: the queue follows from one word, but for a few wrong labels; customers wrote several each."""
    drawn = random.Random(seed)
    rows = []
    for i in range(n):
        queue = list(SUBJECTS)[i % 3]
        words = [drawn.choice(part) for part in (OPENINGS, SUBJECTS[queue], VERBS, ENDINGS)]
        label = queue if i >= wrong else list(SUBJECTS)[(i + 1) % 3]
        rows.append(
            {"ticket": " ".join(words), "queue": label, "customer": f"c{i // 4}", "minutes": i % 3 * 10 + i % 7}
        )
    return pd.DataFrame(rows)


def write_tickets(folder: Path, **options) -> Path:
    path = folder / "tickets.csv"
    tickets(**options).to_csv(path, index=False)
    return path


def animals(n: int = 60) -> pd.DataFrame:
    """Texts in the words of the tiny encoder; the label is the animal in them, after up to three words at random."""
    drawn = random.Random(0)
    rows = [[drawn.choice(WORDS[i : i + 3]) for i in (0, 3, 6)] for _ in range(n)]
    texts = [" ".join(drawn.choices(WORDS, k=drawn.randrange(4)) + row) for row in rows]
    return pd.DataFrame({"words": texts, "animal": [row[1] for row in rows], "size": [len(text) for text in texts]})
