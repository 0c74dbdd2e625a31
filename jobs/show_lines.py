"""Tables, and lines between them: wrapped between words at the width of the terminal, as the tables are.

No word of a line is ever cut.
"""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.table import Table

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


def table_of(title: str | None, *columns: str, whole: str | None = None, fold: bool = False) -> Table:
    """Return an empty table below its title.

    Args:
        title: what the rows are of.
        columns: names of the columns; behind `>` that of a column of numbers, which stand at its right.
        whole: the column in which nothing is ever cut or wrapped.
        fold: whether a word that does not fit goes on below; else it is cut.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(
            name,
            justify="right" if column.startswith(">") else "left",
            no_wrap=name == whole,
            overflow="fold" if fold else "ellipsis",
        )
    return table


def share(part: int, whole: int) -> str:
    """Return a part in percent of a whole; nothing of no whole."""
    return f"{100 * part / whole:.1f} %" if whole else ""
