"""What `facemint generate` prints of screening: from which cosine on somebody counts as found, and how many were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.show_lines import fact, table_of

CONTROL = "control"


def print_leakage(console: Console, leakage: Mapping[str, Any] | str | None) -> None:
    """Print how near the published come to the galleries; nothing where a version was screened against none."""
    if not isinstance(leakage, Mapping):
        return
    console.print(_table(leakage["found"]))
    galleries = {name: held for name, held in leakage["galleries"].items() if name != CONTROL}
    held = ", ".join(f"{name} ({g['faces']:,} faces of {g['people']:,} people)" for name, g in galleries.items())
    control = leakage["galleries"].get(CONTROL)
    number = f"{control['faces']:,} faces of {control['people']:,} people" if control else ""
    fact(console, "Screened", f"against {held}{f'; thresholds from a control of {number}' if number else ''}")
    if leakage["mode"] == "observe":
        fact(console, "", "leakage.mode is observe, so no person was refused")
    if not leakage.get("images_refused", True):
        fact(console, "", "No filter `leakage` refuses, so no image was refused for coming too near")
    copies = leakage["copies"]
    if isinstance(copies, Mapping):
        fact(console, "Copies", f"{copies['flagged']:,} images within {copies['bits']} bits of a gallery's")
    fact(console, "", "The auditor decides nothing. Who came nearest to whom is kept under private/leakage.")


def _table(found: Mapping[str, Any]) -> Table:
    columns = ("recogniser", "compared", ">found from", ">strangers", ">found", ">nearest")
    table = table_of("Nearest to the galleries, among what is published", *columns, fold=True)
    for role, reader in found.items():
        first, compared = role, reader["compared"]
        if not isinstance(compared, Mapping):
            # a gallery of embeddings holds nothing that another recogniser could read
            table.add_row(role, "not compared")
            table.add_section()
            continue
        for what, row in compared.items():
            limit = row["threshold"]
            cos, rate = _cosine(limit.get("cos")) or "none", _share(limit.get("rate"))
            shown = what.replace(" to samples", " - faces").replace(" to centroids", " - people")
            table.add_row(first, shown, cos, rate, f"{row['flagged']:,} of {row['n']:,}", _cosine(row["max"]))
            first = ""
        table.add_section()
    return table


def _share(rate: float | None) -> str:
    return "unknown" if rate is None else f"{100 * rate:.2g} %"


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
