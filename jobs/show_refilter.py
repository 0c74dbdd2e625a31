"""What `facemint refilter` prints: what stays, what goes and why, and what stands open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs.live import counted
from jobs.show import print_published as print_version
from jobs.show_lines import fact, say, table_of

if TYPE_CHECKING:
    from jobs.live import View
    from pipeline.execute.run import Published


def print_dry(facts: Mapping[str, Any]) -> None:
    """Print what a version would come to under other filters."""
    console = Console()
    say(console, f"{facts['uri']}, version {facts['version']}, judged again; nothing is written")
    console.print()
    _print_outcome(console, facts, facts["identities_before"], facts["identities"], facts["images_before"])
    for cell, number in facts["open_cells"].items():
        fact(console, "Open", f"{counted(number, 'place')} of {cell}")


def print_published(published: Sequence[Published], uri: str, view: View) -> None:
    """Print what became of a version that was judged again, and of what it lacked where that was made too."""
    judged, newest = published[0], published[-1]
    facts = judged.manifest.counts.get("refilter")
    console = Console()
    if facts is not None and not judged.resumed:
        gone = sum(facts["identities_gone"].values())
        here = judged.manifest.counts["identities"]
        _print_outcome(console, facts, here + gone, here, None, filled=judged is not newest)
    if judged is not newest:
        say(console, f"{uri}: what version {judged.manifest.version} lacked is in {newest.manifest.version}")
        console.print()
    print_version(newest, uri, view)


def _print_outcome(
    console: Console,
    facts: Mapping[str, Any],
    identities_before: int,
    identities: int,
    images_before: int | None,
    *,
    filled: bool = False,
) -> None:
    table = table_of("Stored images judged again", "", ">images")
    if images_before is not None:
        table.add_row("published before", f"{images_before:,}")
    table.add_row("stay or come back", f"{facts['images_kept']:,}")
    for reason, number in facts["left_out_by_reason"].items():
        table.add_row(f"  stored and left out: {reason}", f"{number:,}")
    table.add_row("pass now, and would have to be made", f"{facts['admitted_not_stored']:,}")
    table.add_row("slots of published identities that stand open", f"{facts['slots_open']:,}")
    console.print(table)
    cells = facts["left_out_by_cell"]
    if cells:
        reasons = sorted({r for found in cells.values() for r in found})
        by_cell = table_of("Left out by cell", "cell", *(f">{reason}" for reason in reasons))
        for cell, found in cells.items():
            by_cell.add_row(cell, *(f"{found.get(r, 0):,}" for r in reasons))
        console.print(by_cell)
    why = ", ".join(f"{number} {reason}" for reason, number in facts["identities_gone"].items())
    fact(console, "Identities", f"{identities_before:,} -> {identities:,}{f' ({why})' if why else ''}")
    if not filled and (facts["slots_open"] or facts["identities_gone"]):
        fact(console, "", "--make-missing makes what stands open, from its keys")
