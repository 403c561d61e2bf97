"""What a method is, in one card: read from its docstring, its types and the contract, so that nothing is said twice."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import describe_ranges


@dataclass(frozen=True)
class PaperCard:
    """A method at a glance.

    Attributes:
        class_name: as imported from `finetune_reg`.
        summary: first line of the class docstring.
        reference: the paper.
        hyperparameters: name -> (default, allowed values).
        passes: forward and backward passes per micro-batch at the default hyperparameters; None for a combination,
            whose members decide.
        acts_in: the calls of the contract that the method overrides.
        where: what it does there, in words.
        adapters: what it means under an adapter of peft, or that it refuses.
        differences: between the paper and its released code, and what `official()` does about them.
    """

    class_name: str
    summary: str
    reference: str
    hyperparameters: dict[str, tuple[str, str]]
    passes: tuple[int, int] | None
    acts_in: tuple[str, ...]
    where: str
    adapters: str
    differences: str


def paper_card(method_type: type[Any]) -> PaperCard:
    """Read the card of a method, a class derived from `FineTuningMethod`."""
    sections = docstring_sections(method_type)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(method_type).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    ranges = describe_ranges(method_type)
    try:
        passes = method_type().passes_per_update
    except (TypeError, InputError):
        passes = None
    return PaperCard(
        class_name=method_type.__name__,
        summary=(method_type.__doc__ or "").partition("\n")[0],
        reference=sections.get("Reference", ""),
        hyperparameters={name: (repr(defaults.get(name, "required")), allowed) for name, allowed in ranges.items()},
        passes=passes,
        acts_in=method_type.overridden_calls(),
        where=sections.get("Where it acts", ""),
        adapters=sections.get("Under adapters", ""),
        differences=sections.get("Differences from the released code", ""),
    )


def docstring_sections(method_type: type[Any]) -> dict[str, str]:
    """Split the docstring of a method's module at its bold headings; line breaks inside a section are spaces."""
    text = inspect.getdoc(inspect.getmodule(method_type)) or ""
    headings = r"^\*\*([^*]+?)\.?\*\*"
    found = re.split(headings, text, flags=re.M)[1:]
    titles = [re.sub(r"\s*\(.*", "", title).rstrip(".") for title in found[::2]]
    return {title: " ".join(body.split()) for title, body in zip(titles, found[1::2], strict=True)}
