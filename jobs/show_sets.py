"""What `facemint split`, `diff` and `merge` print."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.show_lines import fact, table_of
from jobs.show_lines import say as say_wrapped

if TYPE_CHECKING:
    from pipeline.execute.run import Published


def print_split(facts: Mapping[str, Any]) -> None:
    """Print which part got how many identities of each cell, and which pairs are near across parts."""
    console = Console()
    say = functools.partial(say_wrapped, console)
    source = facts["source"]
    say(f"{facts['uri']}, version {source['version']}: {facts['identities']:,} identities")
    names = list(facts["parts"])
    table = table_of(f"Split {facts['name']}", "cell", *(f">{name}" for name in names))
    table.add_row("asked", *(f"{float(Fraction(facts['parts'][n])):.1%}" for n in names))
    table.add_section()
    for cell, parts in facts["reached_by_cell"].items():
        table.add_row(cell, *(f"{parts[n]:,}" for n in names))
    if len(facts["reached_by_cell"]) > 1:
        table.add_section()
        table.add_row("together", *(f"{facts['reached'][n]:,}" for n in names))
    console.print(table)
    near = facts["near"]
    level = f"a cosine of {near['threshold_cos']:.3f}, the recipe's separation"
    if near["across"]:
        fact(console, "Near", f"{near['across']:,} pairs of identities on two sides reach {level}:")
        for pair in near["listed"][:5]:
            sides = " and ".join(pair["parts"])
            fact(console, "", f"identities {pair['other']} and {pair['identity']}, {pair['cos']:.3f}, in {sides}")
        fact(console, "", "nobody is moved for them: leave one of each pair out, or refilter the dataset first")
    else:
        fact(console, "Near", f"no two identities on two sides reach {level}")
    fact(console, "Written", facts["table"]["path"])


SECTIONS = (
    ("recipe", "Recipe"),
    ("counts", "Counts"),
    ("refusals", "Refused, by reason"),
    ("balance", "Balance"),
    ("figures", "Figures and thresholds"),
    ("models", "Models"),
    ("use", "Use"),
)
MOST_ROWS = 40
"""Rows of a section that are shown; --json has all."""


def print_diff(facts: Mapping[str, Any]) -> None:
    """Print a table per section that differs, and what became of people and images."""
    console = Console()
    for side in ("a", "b"):
        who = facts[side]
        fact(console, side.upper(), f"{who['uri']}: {who['name']}, {who['version']}, digest {who['digest'][:12]}")
    console.print()
    if facts["equal"]:
        say_wrapped(console, "Nothing differs: recipe, numbers, identities and images are the same.")
        return
    for key, title in SECTIONS:
        if facts[key]:
            console.print(_differences(title, facts[key]))
    table = table_of("People and images", "", ">A", ">B", ">added", ">removed", ">changed")
    people, images = facts["identities"], facts["images"]
    table.add_row("identities", *(f"{people[k]:,}" for k in ("a", "b", "added", "removed", "relabelled")))
    table.add_row("images", *(f"{images[k]:,}" for k in ("a", "b", "added", "removed", "changed")))
    console.print(table)
    say_wrapped(console, "An identity has changed where its label has, an image where its bytes have.")
    for of, kinds in (("identities", ("added", "removed", "relabelled")), ("images", ("added", "removed", "changed"))):
        for kind in kinds:
            if listed := facts[of][f"{kind}_listed"][:5]:
                more = ", ..." if facts[of][kind] > len(listed) else ""
                fact(console, "", f"{of} {kind}: {', '.join(map(str, listed))}{more}")


def _differences(title: str, rows: list[dict[str, Any]]) -> Table:
    table = table_of(title, "", ">A", ">B", fold=True)
    # what stands high in the tree says more than the last bin of a histogram
    for row in sorted(rows, key=lambda r: (r["name"].count("."), r["name"]))[:MOST_ROWS]:
        table.add_row(*(Text(t) for t in (row["name"], _value(row["a"]), _value(row["b"]))))
    if len(rows) > MOST_ROWS:
        table.add_row(f"... and {len(rows) - MOST_ROWS} more, see --json", "", "")
    return table


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def print_merged(published: Published, uri: str) -> None:
    """Print what came from which source, and why the rest did not."""
    console = Console()
    manifest = published.manifest
    counts = manifest.counts
    if published.resumed:
        say_wrapped(console, f"{uri} is merged already: version {manifest.version}; nothing was made anew.")
        console.print()
    columns = ("source", ">identities", ">images", ">identities left out", ">images left out")
    table = table_of(f"{manifest.name}, merged", *columns)
    for source in counts["merged"]:
        gone = ", ".join(f"{n:,} {why}" for why, n in source["identities_left_out"].items())
        copies = ", ".join(f"{n:,} {why}" for why, n in source["images_left_out"].items())
        who = f"{source['name']} {source['version']} ({source['digest'][:8]})"
        table.add_row(Text(who), f"{source['identities']:,}", f"{source['images']:,}", gone or "0", copies or "0")
    table.add_section()
    table.add_row("together", f"{counts['identities']:,}", f"{counts['images']:,}", "", "")
    console.print(table)
    for source in counts["merged"]:
        if source["collisions"]:
            near = source["collisions_listed"][0]
            fact(
                console,
                "Collisions",
                f"{source['collisions']:,} identities of {source['name']} come too near to one before them; identity "
                f"{near['identity']}, for one, to {near['with']} ({near['cos']:.3f})",
            )
        if source["twins_left_out"]:
            fact(console, "Twins", f"{source['twins_left_out']:,} of {source['name']} left out: the sources' differ")
        if source["measures_left_out"]:
            fact(console, "Measures", f"not in every source, left out: {', '.join(source['measures_left_out'])}")
    fact(console, "Dataset", f"{uri.rstrip('/')}/versions/{manifest.version}/manifest.json")
    fact(console, "Digest", manifest.digest)
