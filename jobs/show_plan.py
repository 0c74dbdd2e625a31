"""What `facemint plan` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from jobs.show_lines import fact, say, table_of


def print_plan(facts: Mapping[str, Any]) -> None:
    """Print what a run would make, what it would cost, and what that rests on."""
    console = Console()
    before, new = facts["identities"]
    images_before, images_new = facts["images"]
    where = facts["uri"] or "an empty place"
    if facts["published"]:
        say(console, f"{where} holds this already: version {facts['published']}. A run would make nothing.")
        return
    grows = f"grows version {facts['parent']}" if facts["parent"] else "begins a dataset"
    say(console, f"{facts['recipe']} at {where}: {grows} (generation {facts['generation']})")
    console.print()
    cells = table_of("Identities by cell", "cell", ">published", ">new")
    for cell, (published, added) in facts["cells"].items():
        cells.add_row(cell or "all", f"{published:,}", f"{added:,}")
    cells.add_section()
    cells.add_row("all", f"{before:,}", f"{new:,}", style="bold")
    console.print(cells)
    console.print(_thresholds(facts["thresholds"]))
    enrol, enrol_done = facts["enrol_units"]
    make, make_done = facts["make_units"]
    lines = [
        ("Images", f"{images_new:,} new" + (f", beside {images_before:,} published" if images_before else "")),
        ("Units", f"enrol {enrol:,} ({enrol_done:,} committed), make {make:,} ({make_done:,} committed), first rounds"),
        *_room(facts["room"]),
        *_costs(facts),
    ]
    for name, text in lines:
        fact(console, name, text)
    console.print("Nothing was written.")


def _costs(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is said of images, bytes and hours."""
    costs = facts["costs"]
    if costs is None:
        return [
            ("Candidates", f"{facts['candidates']:,} images at least are still to be made"),
            ("Time, size", f"not reckoned: {facts['unreckoned']}"),
        ]
    time = f"about {_duration(facts['hours'])} on {facts['workers']} workers"
    rests = (
        f"{costs['source']}: {costs['worker_s_per_image'] * 1000:.1f} ms per image and worker, "
        f"{100 * costs['accepted_share']:.0f} % accepted, {costs['bytes_per_image'] / 1000:.1f} kB an image"
    )
    return [
        ("Candidates", f"about {facts['candidates']:,} images are still to be made"),
        ("Size", f"about {decimal(facts['bytes'])}"),
        (
            "Time",
            f"{time} ({_unit(facts)} time {_duration(facts['worker_hours'])}), beside start-up, audit and publishing",
        ),
        ("Rests on", rests),
        ("Measured on", facts["device_kind"]),
    ]


def _thresholds(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = table_of("Thresholds under the judge's calibration", "threshold", ">cosine", "FMR (comparison)")
    for row in rows:
        table.add_row(row["where"], f"{row['cos']:.4f}", row["fmr"])
    return table


def _room(room: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return what is said of whether the vectors wanted fit; nothing where nothing is known."""
    if room is None:
        return []
    wanted, rests = (
        f"{room['wanted']:,} vectors below cosine {room['threshold_cos']:g}",
        f"{room['sample']:,} drawn here",
    )
    if room["candidates"] is None:
        fit = "do not fit, however many candidates are drawn: raise enrol.vector_separation_cos or ask for fewer"
        return [("Room", f"{wanted} {fit} (told from {rests})")]
    high = "no bound" if room["candidates_high"] is None else f"{room['candidates_high']:,}"
    bounds = f"90 % interval {room['candidates_low']:,} to {high}"
    return [("Room", f"{wanted} take about {room['candidates']:,} candidates ({bounds}; told from {rests})")]


def _unit(facts: Mapping[str, Any]) -> str:
    return "CPU" if facts["device_kind"].startswith("cpu") else "GPU"


def _duration(hours: float) -> str:
    seconds = hours * 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{hours:.1f} h"
