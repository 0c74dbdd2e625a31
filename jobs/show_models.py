"""What `facemint models` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.filesize import decimal

from jobs.show_lines import fact, table_of


def print_models(facts: Mapping[str, Any]) -> None:
    """Print every model that is known: what it is, under which licence, and whether it is here."""
    console = Console()
    # a name is what a user types: it is never cut
    table = table_of("Published models", "model", "what it is", "form", "commercial use", "here", whole="model")
    for model in facts["models"]:
        allowed = "allowed" if model["commercial"] else "no"
        table.add_row(model["name"], model["what"], model["form"], allowed, "yes" if model["here"] else "")
    console.print(table)
    fact(console, "Cache", f"{facts['cache']}: {len(facts['fetched'])} addresses fetched")
    fact(console, "More", "facemint models list MODEL")


def print_model(facts: Mapping[str, Any]) -> None:
    """Print one model's card."""
    console = Console()
    (model,) = facts["models"]
    console.print(f"{model['name']}: {model['what']}", style="bold", highlight=False)
    seen = model["sha256"] or "unknown: the published file was not seen here"
    size = decimal(model["size_bytes"]) if model["size_bytes"] else "unknown"
    for name, text in (
        ("Licence", f"{model['licence']}; commercial use {'allowed' if model['commercial'] else 'not allowed'}"),
        ("Source", model["source"]),
        ("Address", model["address"] or "none is known here; get it from its source"),
        ("SHA-256", seen),
        ("Size", size),
        ("Form", model["form"]),
        ("Space", model["space"]),
        ("Expects", model["preprocessing"]),
        ("Settings", ", ".join(f"{name} {value}" for name, value in model["settings"].items())),
        ("Here", ", ".join(model["here"]) or "no"),
    ):
        if text:
            fact(console, name, text)


def print_fetched(facts: Mapping[str, Any]) -> None:
    """Print what was fetched, as a recipe names it, with what its licence allows."""
    console = Console()
    for row in facts["fetched"]:
        console.print(row["uri"], style="bold", highlight=False)
        fact(console, "In a recipe", f"{{uri: {row['uri']}, sha256: {row['sha256']}}}")
        fact(console, "File", f"{row['path']}, {decimal(row['bytes'])}")
        if row["model"]:
            allowed = "allowed" if row["commercial"] else "not allowed"
            fact(console, "Licence", f"{row['model']}: {row['licence']}; commercial use {allowed}")


def print_checked(facts: Mapping[str, Any]) -> None:
    """Print how each file was found."""
    console = Console()
    for row in facts["checked"]:
        console.print(f"{row['state']:8} {row['uri'] or row['sha256']}", highlight=False, soft_wrap=True)
        if row["said"]:
            console.print(f"         {row['said']}", highlight=False, soft_wrap=True)
    console.print(f"{len(facts['checked'])} checked, {facts['problems']} with a problem", highlight=False)


def print_converted(facts: Mapping[str, Any]) -> None:
    """Print what was converted, and what was left out."""
    console = Console()
    console.print(f"{facts['path']}: {facts['tensors']:,} tensors, {decimal(facts['bytes'])}", style="bold")
    fact(console, "SHA-256", facts["sha256"])
    fact(console, "Left out", ", ".join(facts["left_out"]) or "nothing")
    if not facts["network_fenced"]:
        fact(console, "Note", "this kernel lends no network of its own; the audit hook alone kept the process off it")
