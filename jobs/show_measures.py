"""What `facemint measure` and `facemint quantiles` print: who was asked, and what was found."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from jobs.live import counted
from jobs.show_lines import say as say_wrapped

SHOWN = (0, 5, 10, 25, 50, 75, 100)
"""Percentiles that are printed; the file has all 101."""


def print_added(facts: Mapping[str, Any]) -> None:
    """Print what was added to a dataset."""
    console = Console()
    say = functools.partial(say_wrapped, console, indent=2)
    model = facts["model"]
    say(f"{facts['name']}: {model['name']} ({model['licence']}, sha256 {model['sha256'][:12]}, epoch {model['epoch']})")
    before = f", {facts['units_before']:,} stood before" if facts["units_before"] else ""
    read = f"{counted(facts['images'], 'image')} read, {decimal(facts['bytes'])} written"
    say(f"{counted(facts['units'], 'unit')}{before}: {read}")
    if facts["space"]:
        space = facts["space"]
        say(f"Added: embeddings of {space['dimensions']} numbers in the space {space['name']}")
    else:
        say(f"Added: {', '.join(facts['measures'])}")


def print_quantiles(content: Mapping[str, Any], out: str) -> None:
    """Print at which score some percentiles lie, among whom, and how far off a percentile may be."""
    console = Console()
    say = functools.partial(say_wrapped, console, indent=2)
    model, population = content["model"], content["population"]
    say(f"{model['use']} on {population['source']}: {counted(population['images'], 'face')}")
    say(f"Alignment {model['alignment']}, sha256 {model['sha256'][:16]}..., faces {population['digest'][:16]}...")
    if population["left_out"]:
        say(f"Left out, as they could not be read or have no score: {population['left_out']:,}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("score at %", overflow="fold")
    for place in SHOWN:
        table.add_column(str(place), justify="right", no_wrap=True)
    for name, quantiles in content["quantiles"].items():
        table.add_row(name, *(f"{quantiles[place]:.3g}" for place in SHOWN))
    console.print(table)
    # the deviation of a share of one half among n, twice
    off = 100.0 / population["images"] ** 0.5
    say(f"With so many faces, taken as independent, a percentile is known to about ±{off:.2g} points (95 %).")
    say(f"Written to {out}; a recipe's measure takes it as `percentiles: {out}`, for the filter quality-percentile")
