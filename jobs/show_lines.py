"""Lines between tables: wrapped between words at the width of the terminal, as the tables are; no word is ever cut."""

from __future__ import annotations

import textwrap

from rich.console import Console

LABEL = 13
"""Columns that the name of a fact takes, the gap behind it included."""


def say(console: Console, text: str, indent: int = 0) -> None:
    """Print a line; what does not fit goes on below it, `indent` columns in. Paths and digests stay in one piece."""
    lead = text[: len(text) - len(text.lstrip())]
    lines = textwrap.wrap(
        text.lstrip(),
        max(console.width, indent + 20),
        initial_indent=lead,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def fact(console: Console, name: str, text: str) -> None:
    """Print a name and what is said of it; what does not fit goes on below the text."""
    say(console, f"{name:{LABEL - 1}s} {text}", LABEL)
