"""Every method on every model, head and loop: what came of it is the page `docs/compatibility.md`.

A trial makes a few updates of a tiny model. It works when it ends with finite weights that have moved; it is refused
when an `InputError` says why. Anything else fails the test: there is no third kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache, partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from adapters import ADAPTERS, adapted
from heads import HEADS, text_batch, with_head
from method_settings import METHOD_SETTINGS
from tiny_encoders import DECODERS, ENCODERS, tiny_dataset, tiny_encoder
from torch import nn
from torch.nn import functional as F
from training_hosts import (
    checkpoint_activations,
    largest_difference,
    method_trainer,
    train_by_hand,
    train_in_loop,
    weights,
)
from two_processes import launched
from unusual_models import UNUSUAL
from weighted_trainers import WeightedMethodTrainer

from finetune_reg.errors import InputError
from finetune_reg.methods import METHODS
from finetune_reg.trainer import MethodTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it
Trial = Callable[[str], nn.Module]
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def by_hand(build: Callable[[], tuple[nn.Module, list]], name: str) -> nn.Module:
    """Train with the six calls alone."""
    model, dataset = build()
    before = weights(model)
    train_by_hand(model, METHOD_SETTINGS[name].active(), dataset)
    assert largest_difference(before, weights(model)) > 0.0, f"{name} moved nothing"
    return model


def encoder(architecture: str, **overrides) -> tuple[nn.Module, list]:
    return tiny_encoder(architecture, **overrides), tiny_dataset()


def headed(head: str) -> tuple[nn.Module, list]:
    batch = HEADS[head].labelled(text_batch(24))
    return with_head(head, dropout=True), [{name: tensor[i] for name, tensor in batch.items()} for i in range(24)]


def with_adapter(kind: str) -> tuple[nn.Module, list]:
    return adapted(kind), tiny_dataset()


def several_labels() -> tuple[nn.Module, list]:
    model = tiny_encoder("bert", problem_type="multi_label_classification")
    return model, [example | {"labels": F.one_hot(example["labels"], 2).float()} for example in tiny_dataset()]


def numbers() -> tuple[nn.Module, list]:
    model = tiny_encoder("bert", num_labels=1, problem_type="regression")
    return model, [example | {"labels": example["labels"].float()} for example in tiny_dataset()]


def in_trainer(name: str, trainer_class=MethodTrainer, **arguments) -> nn.Module:
    model = arguments.pop("model", None) or tiny_encoder("bert")
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        method = METHOD_SETTINGS[name].active()
        method_trainer(model, method, tiny_dataset(), folder, trainer_class=trainer_class, **arguments).train()
    return model


def in_loop(name: str, **options) -> nn.Module:
    model = tiny_encoder("bert")
    train_in_loop(model, METHOD_SETTINGS[name].active(), tiny_dataset(), **options)
    return model


def data_parallel(name: str) -> nn.Module:
    return by_hand(lambda: (nn.DataParallel(tiny_encoder("bert")), tiny_dataset()), name)


def checkpointed(name: str) -> nn.Module:
    model = tiny_encoder("bert")
    checkpoint_activations(model)
    return by_hand(lambda: (model, tiny_dataset()), name)


def resumed(name: str) -> nn.Module:
    """Stop after three of six updates, and go on from there with another object."""
    model = tiny_encoder("bert")
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        for checkpoint in (None, f"{folder}/checkpoint-3"):
            method = METHOD_SETTINGS[name].active()
            options = {"save_strategy": "steps", "save_steps": 3}
            trainer = method_trainer(model, method, tiny_dataset(), folder, **options)
            trainer.train(resume_from_checkpoint=checkpoint)
    return model


@cache
def trained_in_two_processes() -> dict[str, list[dict[str, torch.Tensor]]]:
    """Train with all methods in two processes; return the weights of both, by method."""
    with TemporaryDirectory() as folder:
        return launched("torch.distributed.run", METHODS, Path(folder))


TABLES: dict[str, dict[str, Trial]] = {
    "Encoders": {
        **{name: partial(by_hand, partial(encoder, name)) for name in ENCODERS},
        **{name: partial(by_hand, UNUSUAL[name]) for name in ("modernbert", "albert", "mpnet", "longformer")},
        **{name: partial(by_hand, UNUSUAL[name]) for name in ("xlnet", "big_bird")},
    },
    "Other models": {
        **{name: partial(by_hand, partial(encoder, name)) for name in DECODERS},
        **{name: partial(by_hand, UNUSUAL[name]) for name in ("llama", "qwen2", "t5", "t5, writing", "bart", "images")},
        **{name: partial(by_hand, UNUSUAL[name]) for name in ("own head, dictionary", "own head, tuple", "holder")},
    },
    "Heads": {
        **{head: partial(by_hand, partial(headed, head)) for head in HEADS},
        "several labels": partial(by_hand, several_labels),
        "a number": partial(by_hand, numbers),
    },
    "Adapters": {kind: partial(by_hand, partial(with_adapter, kind)) for kind in ADAPTERS},
    "Loops": {
        "plain loop": in_loop,
        "MethodTrainer": in_trainer,
        "accumulation": partial(in_trainer, accumulation_steps=2),
        "own loss": partial(in_trainer, trainer_class=WeightedMethodTrainer),
        "smoothed labels": partial(in_trainer, label_smoothing_factor=0.1),
        "bfloat16": partial(in_trainer, bf16=True),
        "DataParallel": data_parallel,
        "checkpointing": checkpointed,
        "resumed": resumed,
        "two processes": lambda name: nn.ParameterList(trained_in_two_processes()[name][0].values()),
    },
}


def outcome(trial: Trial, name: str) -> str | None:
    """Return None when the trial works, and the sentence when it is refused, with … for model and adapter."""
    try:
        model = trial(name)
    except InputError as refusal:
        return re.sub(r"\b\w+For[A-Z]\w+|\b[A-Z0-9_]+(?= of peft)", "…", str(refusal))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters()), f"{name} left numbers not finite"
    return None


def page() -> str:
    """Return the page, from trials made now."""
    sentences: dict[str, int] = {}
    lines = [
        "# What works where",
        "",
        "Every method was tried on a tiny model of every kind, for a few updates. **✓**: it trains, and leaves a plain",
        "model. **A number**: it is refused in one sentence, which the list at the end of the page gives. There is no",
        "third kind. In the sentences … stands for the model or the adapter. A test makes this page anew and fails",
        "when it differs.",
    ]
    for title, trials in TABLES.items():
        lines += ["", f"## {title}", "", f"| method | {' | '.join(trials)} |", "|---" * (len(trials) + 1) + "|"]
        for name in METHODS:
            cells = []
            for trial in trials.values():
                sentence = outcome(trial, name)
                cells.append("✓" if sentence is None else str(sentences.setdefault(sentence, len(sentences) + 1)))
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "## Refusals", "", *(f"{number}. {sentence}" for sentence, number in sentences.items())]
    return "\n".join(lines) + "\n"


@pytest.mark.campaign
def test_the_page_is_what_trials_give_now():
    made_now = page()
    if made_now != PAGE.read_text():
        PAGE.write_text(made_now)
        pytest.fail("docs/compatibility.md was out of date and has been written anew: look at it, and commit it.")


def test_the_page_has_every_method_and_a_sentence_for_each_refusal():
    text = PAGE.read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row[0] == "method"] == [["method", *trials] for trials in TABLES.values()]
    assert [row[0] for row in rows if row[0] != "method"] == [*METHODS] * len(TABLES)
    refusals = dict(re.findall(r"^(\d+)\. (.*\.)$", text, re.M))
    assert {cell for row in rows for cell in row[1:] if row[0] != "method"} == {"✓", *refusals}
