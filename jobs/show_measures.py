"""What `facemint measure` prints: who was asked, and what was added."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.filesize import decimal

from jobs.live import counted
from jobs.show_lines import say as say_wrapped


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
