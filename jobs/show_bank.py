"""What `facemint bank` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.filesize import decimal

from jobs.show_lines import fact, table_of


def print_bank(facts: Mapping[str, Any]) -> None:
    """Print a bank: its Gaussians with what each rests on, then where it comes from."""
    console = Console()
    table = table_of(f"Bank {facts['name']}", "cell", ">identities", "covariance", ">shrinkage")
    for cell, fit in facts["cells"].items():
        table.add_row(cell, f"{fit['identities']:,}", fit["covariance"], f"{100 * fit['shrinkage']:.1f} %")
    console.print(table)
    axes = ", ".join(f"{100 * float(share):g} % in {count}" for share, count in facts["axes"].items())
    _print_lines(console, facts, [("Axes", f"variance of everyone: {axes} of {facts['space']['dimensions']}")])
    if len(facts["cells"]) > 1 and facts["without_cell"]:
        fact(console, "Without cell", f"{facts['without_cell']:,} of {facts['identities']:,} identities")
    if facts["too_few"]:
        few = ", ".join(f"{cell} ({count})" for cell, count in facts["too_few"].items())
        fact(console, "Left to all", f"{few}: fewer than {facts['least_identities']}")
    for note in facts["notes"]:
        fact(console, "Note", note)


def print_vectors(facts: Mapping[str, Any]) -> None:
    """Print a file of vectors: how many, of whom, and where they come from."""
    console = Console()
    console.print(f"Vectors {facts['name']}", style="bold")
    real = "real people: personal data, to be kept as their images are" if facts["real_people"] else "made-up people"
    _print_lines(console, facts, [("Of", real)])


def print_map(facts: Mapping[str, Any]) -> None:
    """Print a map: from where to where, and how well it carries people over whom it was not fitted to."""
    console, error = Console(), facts["error"]
    console.print(f"Map {facts['name']}", style="bold")
    spaces = (facts["space"], facts["target"])
    came, comes = (f"{s['name']}, {s['dimensions']} dimensions, {s['norm']}, {s['alignment']}" for s in spaces)
    judged = (
        f"{error['held_out_pairs']:,} pairs of {error['held_out_identities']:,} others: cosine to the true vector "
        f"{error['mean_cos']:.3f} on average (deviation {error['std_cos']:.3f}, 5 % below {error['low_cos']:.3f}), to "
        f"a stranger's {error['stranger_cos']:.3f}; their own is nearest for {100 * error['own_nearest']:.1f} %"
    )
    lines = [
        ("From", came),
        ("To", comes),
        ("Fitted to", f"{error['pairs']:,} pairs of {error['identities']:,} identities, ridge {error['ridge']:g}"),
        ("Judged on", judged),
    ]
    _print_facts(console, facts, lines)


def _print_lines(console: Console, facts: Mapping[str, Any], first: list[tuple[str, str]]) -> None:
    space, each = facts["space"], facts["images_per_identity"]
    number = f"{each['least']} to {each['most']}" if each["least"] < each["most"] else f"{each['most']}"
    images = f"{facts['images']:,} images ({number} each)"
    unreadable = f"; {facts['unreadable']} unreadable left out" if facts["unreadable"] else ""
    lines = [
        *first,
        ("Space", f"{space['name']}, {space['dimensions']} dimensions, {space['norm']}, {space['alignment']}"),
        ("Rests on", f"{facts['identities']:,} identities, {images}{unreadable}"),
    ]
    _print_facts(console, facts, lines)


def _print_facts(console: Console, facts: Mapping[str, Any], first: list[tuple[str, str]]) -> None:
    """Print these lines, then what every such file says of itself: where it comes from and where it lies."""
    lines = [
        *first,
        ("Source", facts["source"]),
        ("Licence", f"{facts['licence']}; commercial use {'allowed' if facts['commercial_use'] else 'not allowed'}"),
        ("Basis", facts["lawful_basis"]),
        ("File", f"{facts['path']}, {decimal(facts['bytes'])}, SHA-256 {facts['sha256'][:16]}..."),
    ]
    for name, text in lines:
        fact(console, name, text)
