"""What a person reads at the end of `facemint curate`: what became of every input, and where things are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from jobs.show_lines import fact

if TYPE_CHECKING:
    from jobs.live import View
    from pipeline.execute.run import Published

_STAGES = {
    "read": "could not be read",
    "decode": "could not be decoded",
    "detect": "no face",
    "align": "no crop",
    "measure": "no numbers",
    "clean": "cleaned out",
    "filter": "refused by a filter",
}


def print_curated(published: Published, uri: str, view: View) -> None:
    """Print the account of inputs, the people, and where things are."""
    console = Console()
    manifest = published.manifest
    counts = manifest.counts
    if published.resumed:
        console.print(f"{uri} is published already: version {manifest.version}; its sources hold nothing new.\n")
    console.print(_account(counts["inputs"]))
    newest = counts["curated"][-1]
    fact(console, "People", f"{counts['identities']} with {counts['images']} images; {counts['identities_new']} new")
    told = f"{newest['labels']} clusters of labels, {newest['merged']} merged into others, "
    fact(console, "Labels", f"{told}{newest['joined_published']} joined published people")
    if newest["moved_faces"]:
        fact(console, "Moved", f"{newest['moved_faces']} images stand under another label than their source's")
    if newest["alike_published"]:
        pairs = ", ".join(f"{a} and {b} ({cos:.3f})" for a, b, cos in newest["alike_published"][:5])
        fact(console, "Look", f"published identities that new images match both: {pairs}; they stay apart")
    version = f"{uri.rstrip('/')}/versions/{manifest.version}"
    for what, name in (("Dataset", "manifest.json"), ("Report", "report.html"), ("Faces", "contact_sheet.png")):
        console.print(f"{what:<12} {version}/{name}", highlight=False, soft_wrap=True)
    for entry in published.exports:
        console.print(f"To train on  {entry['uri']}", highlight=False, soft_wrap=True)
    console.print(f"Digest       {manifest.digest}", highlight=False, soft_wrap=True)
    del view


def _account(inputs: Mapping[str, Any]) -> Table:
    """Return what became of every input: three numbers that add up, and why."""
    table = Table(title="What became of every input", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("inputs", justify="right")
    table.add_column("share", justify="right")
    total = inputs["listed"]
    table.add_row("listed", f"{total:,}", "")
    table.add_section()
    table.add_row("kept", f"{inputs['kept']:,}", _share(inputs["kept"], total))
    table.add_row("refused", f"{inputs['refused']:,}", _share(inputs["refused"], total))
    table.add_row("unreadable", f"{inputs['unreadable']:,}", _share(inputs["unreadable"], total))
    table.add_section()
    for stage, reasons in inputs["reasons"].items():
        for reason, number in reasons.items():
            table.add_row(f"  {_STAGES.get(stage, stage)}: {reason}", f"{number:,}", _share(number, total))
    return table


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
