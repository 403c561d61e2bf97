"""What the command prints: names as they are, never read as markup, and each refusal as one sentence."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

console = Console(markup=False, emoji=False, highlight=False)


def print_error(sentence: str) -> None:
    """Print a sentence as one line on the error output; what is not for printing in it is written as an escape."""
    Console(stderr=True).print(Text(printable(sentence), style="bold red"), soft_wrap=True)


def printable(text: str) -> str:
    """Return a text with line breaks, control characters and halves of characters as Python writes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
