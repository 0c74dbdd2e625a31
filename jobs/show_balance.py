"""Tables of balance: who was asked for and reached, cell by cell and value by value, and how even the whole is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.show_lines import fact, table_of

MOST_CELLS = 24
"""Cells that are printed; of more, those that are furthest from what was asked. The manifest has all."""


def print_balance(console: Console, balance: Mapping[str, Any]) -> None:
    """Print the cells, the values of several fields, and one line of figures."""
    console.print(_cells(balance))
    if len(balance["by"]) > 1 and "values" in balance:
        console.print(_values(balance["values"]))
    for name, text in _lines(balance):
        fact(console, name, text)


def _cells(balance: Mapping[str, Any]) -> Table:
    by = " x ".join(balance["by"]) or "nothing"
    title = f"Balance over identities by {by} (as a model reads them; adjusted for its errors)"
    columns = ("cell", ">asked", ">reached", ">share", ">95 % interval", ">adjusted")
    table = table_of(title, *columns, whole="cell")
    rows = balance["cells"]
    shown = sorted(rows, key=lambda r: -abs(r["asked"] - r["reached"]))[:MOST_CELLS] if len(rows) > MOST_CELLS else rows
    for row in shown:
        interval, adjusted = _interval(row["share_95"]), _share(row["adjusted_share"])
        table.add_row(row["cell"], str(row["asked"]), str(row["reached"]), _share(row["share"]), interval, adjusted)
    if len(rows) > len(shown):
        table.caption = f"{len(rows) - len(shown)} more cells, nearer to what was asked, are in the manifest"
    return table


def _values(values: Any) -> Table:
    table = table_of("The same by value", "value", ">asked", ">reached", ">share", ">95 % interval", fold=True)
    field = None
    for row in values:
        if row["field"] != field:
            # a line of its own: beside its values a long name would be cut where 80 columns are all there is
            field = row["field"]
            table.add_row(field, style="bold")
        interval = _interval(row["share_95"])
        table.add_row(f"  {row['value']}", str(row["asked"]), str(row["reached"]), _share(row["share"]), interval)
    return table


def _lines(balance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures of all cells together, each with its name."""
    summary = balance.get("summary")
    if not summary:
        return []
    said = [
        f"effective cells {_number(summary['effective_cells'], 2)} of {summary['cells']}",
        f"evenness {_number(summary['evenness'], 3)}",
        f"KL to target {_number(summary['kl_to_target_nats'], 4)}",
        f"least parity {_number(summary['parity_min_to_max'], 3)}",
        f"least represented {_number(summary['least_representation'], 3)}",
    ]
    said += [f"Cramer's V {_number(a['cramers_v'], 3)} ({' x '.join(a['between'])})" for a in balance["association"]]
    lines = [("Evenness", ", ".join(said))]
    lines += [("Empty", ", ".join(summary["cells_empty"]))] if summary["cells_empty"] else []
    if not balance["exact"]:
        largest = balance["largest_balanced"]
        more = ", ".join(largest["next_cells"][:6]) or "every cell"
        said_of = f"{largest['identities']} of those who are there form the largest set with the shares asked for"
        lines.append(("Balanced", f"{said_of}; to enlarge it make more of {more}"))
    for row in balance["labellers"]:
        lines.append(("Labellers", f"{', '.join(row['labellers'])} agree on {row['field']} of {_share(row['agree'])}"))
    return lines


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _interval(bounds: Any) -> str:
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def _number(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"
