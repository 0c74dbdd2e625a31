"""The variation plan at the end of a run: which bins came out short, overall and in which cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.show_lines import say, table_of
from pipeline.domain.variation import OVERALL, Shortfall, TOLERANCE_points, shortfalls

MOST_CELLS = 6
"""Bins of single cells that are listed per condition, the worst first; the manifest has all."""


def print_variation(console: Console, variation: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per condition that a measure reads, and the bins that were not met, overall and cell by cell."""
    if not variation:
        return
    console.print(_summary(variation))
    short = list(shortfalls(variation))
    if short:
        say(console, f"Short of the plan by more than {TOLERANCE_points:g} points, which are hundredths of the images:")
    for condition, found in groupby(short, key=lambda s: s.condition):
        for line in _deficits(condition, sorted(found)):
            say(console, line, indent=4)


def _summary(variation: Sequence[Mapping[str, Any]]) -> Table:
    title = "Variation: asked of the images and measured in them (deficit in points)"
    columns = ("condition", ">images", ">distance", ">correlation", ">off target", ">deficit")
    table = table_of(title, *columns, whole="condition")
    for facts in variation:
        condition, measure = facts["condition"], facts["measure"]
        name = condition if condition == measure else f"{condition}, read by {measure}"
        distance, largest = facts["mean_absolute_error"], facts["largest_deficit_points"]
        table.add_row(
            name,
            str(facts["images"]),
            "" if distance is None else f"{distance:.3g}",
            "" if facts["correlation"] is None else f"{facts['correlation']:.2f}",
            str(facts["off_target"]),
            "" if largest is None else f"{largest:.1f}",
        )
    return table


def _deficits(condition: str, worst: Sequence[Shortfall]) -> Iterator[str]:
    """Yield a line per bin that is short overall, and one that names cells; the largest deficits come first."""
    for row in (s for s in worst if s.cell == OVERALL):
        yield (
            f"  {condition} {row.bin}: short by {row.points:.1f}; planned {_percent(row.planned)}, asked "
            f"{_percent(row.asked)}, delivered {_percent(row.delivered)}, {row.off_target} off target"
        )
    cells = [s for s in worst if s.cell != OVERALL]
    if cells:
        named = "; ".join(f"{s.cell}: {s.bin} by {s.points:.1f}" for s in cells[:MOST_CELLS])
        more = f"; and {len(cells) - MOST_CELLS} more in the manifest" if len(cells) > MOST_CELLS else ""
        yield f"  {condition} by cell: {named}{more}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
