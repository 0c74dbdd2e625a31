"""What a person reads of balance: at the end of a run and in the card."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from jobs.show_balance import MOST_CELLS, print_balance
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.balance import targets_of
from pipeline.domain.records import Cell
from pipeline.flow.balance_report import People, balance_figures
from tests.worlds import mint, sketches

KNOWN = {"race": tuple("abcdefg"), "presentation": ("feminine", "masculine"), "age": tuple("123456789")}


def printed(balance: dict[str, Any]) -> str:
    """Return what is printed on a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80)
    print_balance(console, balance)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_of_many_cells_those_furthest_from_what_was_asked_are_printed() -> None:
    """Of 126 cells the short one stands first, and how many are left out is said."""
    targets = targets_of(list(KNOWN), KNOWN, None, None)
    quota = dict.fromkeys(targets.cells, 4)
    poor = Cell(("g", "masculine", "9"))
    people = [c for c, n in quota.items() for _ in range(n if c != poor else 1)]

    text = printed(balance_figures(People(people), quota, targets, {}))

    table = text.split("The same by value")[0]
    rows = [line for line in table.splitlines() if "/" in line and "%" in line and line.startswith("│")]
    assert len(rows) == MOST_CELLS
    assert "g/masculine/9" in rows[0]
    assert f"{126 - MOST_CELLS} more cells" in " ".join(table.split())
    assert "to enlarge it make more of g/masculine/9" in " ".join(text.split())


@pytest.mark.parametrize("absent", ["nobody", "one field"])
def test_a_balance_without_figures_is_printed(absent: str) -> None:
    """Nobody at all, and a single field, end in a table and not in a traceback."""
    targets = targets_of(["presentation"], KNOWN, None, None)
    people = [] if absent == "nobody" else [Cell(("feminine",))]

    text = printed(balance_figures(People(people), dict.fromkeys(targets.cells, 1), targets, {}))

    assert "feminine" in text
    assert "Empty        " in text
    assert ("masculine" in text.split("Empty")[1]) is True


def test_the_card_holds_the_figures_of_all_cells() -> None:
    """The dataset card of a run has the table of evenness beside that of the cells."""
    store = MemoryStore()
    mint(sketches(), store)
    card = store.get("versions/v000001/README.md").decode()

    assert "| cells_asked_and_empty | none |" in card
    assert "| cramers_v of shape and shade | 0 |" in card
    assert "| identities in the largest balanced set | 10 |" in card
