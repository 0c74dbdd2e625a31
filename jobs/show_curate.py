"""What a person reads at the end of `facemint curate`: what became of every input, and where things are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from jobs.live import duration
from jobs.show_lines import fact, share, table_of

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
    # versions that an older release erased from do not say
    if counts.get("images_ai_made"):
        fact(console, "AI-made", f"{counts['images_ai_made']} images say of themselves that a model made them")
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


def print_held(uri: str) -> None:
    """Print where the review queue lies, and how to go on."""
    console = Console()
    console.print("Held before any image is written.")
    root = f"{uri.rstrip('/')}/private/review"
    console.print(
        f"Look at      {root}/ (the newest page, and the table of the same name)", highlight=False, soft_wrap=True
    )
    console.print("Go on with   the same command without --hold, with --decisions FILE where you decided otherwise")


def _account(inputs: Mapping[str, Any]) -> Table:
    """Return what became of every input: three numbers that add up, and why."""
    table = table_of("What became of every input", "", ">inputs", ">share")
    total = inputs["listed"]
    table.add_row("listed", f"{total:,}", "")
    table.add_section()
    table.add_row("kept", f"{inputs['kept']:,}", share(inputs["kept"], total))
    table.add_row("refused", f"{inputs['refused']:,}", share(inputs["refused"], total))
    table.add_row("unreadable", f"{inputs['unreadable']:,}", share(inputs["unreadable"], total))
    table.add_section()
    for stage, reasons in inputs["reasons"].items():
        for reason, number in reasons.items():
            table.add_row(f"  {_STAGES.get(stage, stage)}: {reason}", f"{number:,}", share(number, total))
    return table


def print_forecast(facts: Mapping[str, Any]) -> None:
    """Print what a curation would look at."""
    console = Console()
    columns = ("source", ">new inputs", ">labels", ">bytes", ">known faults")
    table = table_of(f"What {facts['recipe']} would look at", *columns)
    for one in facts["sources"]:
        faults = ", ".join(f"{n} {why}" for why, n in one["faults"].items()) or "none"
        table.add_row(one["source"], f"{one['inputs']:,}", f"{one['labels']:,}", decimal(one["bytes"]), faults)
    console.print(table)
    if facts["listed_before"]:
        fact(console, "Listed", f"{facts['listed_before']:,} inputs of {facts['uri']} are accounted for already")
    if facts["each_s"] is not None:
        told = f"{1 / facts['each_s']:.1f} inputs/s and worker, of {facts['tried']} tried here"
        found = f"a face in {100 * facts['with_face']:.0f} % of them"
        fact(console, "Speed", f"{told}, {found}")
        fact(console, "Time", f"about {duration(facts['hours'] * 3600)} on {facts['workers']} workers like this one")
    levels = ", ".join(f"{k.removesuffix('_cos')} {v:.3f}" for k, v in facts["thresholds"].items() if v <= 1.0)
    fact(console, "Cosines", levels)
